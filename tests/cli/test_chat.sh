#!/bin/sh
# hadal chat from a pipe: turns, reuse of the last turn's state, every slash command, saved conversations, refusals.
. tests/util/tap.sh
M=models/tiny
chat() { # chat LINES OPTIONS...: runs a conversation
    printf '%b' "$1" >"$tap_dir/in"
    shift
    tap_out=$tap_dir/out
    tap_err=$tap_dir/err
    rc=0
    "$HADAL" chat -m $M --max-tokens 16 --temperature 100 --seed 4 "$@" <"$tap_dir/in" >"$tap_out" 2>"$tap_err" || rc=$?
}

chat 'Hello\n/stats\n'
expect_text 'one turn' 'all 1 replies'
expect_text 'nothing to reuse at first' ' 0 reused'
chat 'Hello\n/quit\n/stats\n'
report '/quit ends' "$(grep 'all 1 replies' "$tap_out")"
chat 'Hello' # no newline at the end
report 'a last line without a newline counts' "$([ -s "$tap_out" ] && [ "$rc" -eq 0 ] || cat "$tap_err")"
chat '\n  \n'
report 'blank lines are nothing' "$([ ! -s "$tap_out" ] && [ "$rc" -eq 0 ] || cat "$tap_out" "$tap_err")"
chat 'one\\\ntwo\n/stats\n'
expect_text 'a backslash goes on' 'all 1 replies'

# The prompt up to the first reply comes back unchanged, and the reply is short enough to be taken back.
chat 'Hello there, how are you?\nAnd now?\n/stats\n' --max-tokens 4
report 'the second turn reuses the first' \
    "$(grep -q -E 'last prompt: [0-9]+ tokens, [1-9][0-9]* reused' "$tap_out" || cat "$tap_out")"
chat 'Hello there\nAnd now?\n/stats\n' --think high
report 'a turn that thinks reuses the prompt before it, whose reasoning is dropped' \
    "$(grep -q -E 'last prompt: [0-9]+ tokens, [1-9][0-9]* reused' "$tap_out" || cat "$tap_out")"
chat 'Hello there\n/clear\nSomething quite different\n/stats\n'
expect_text '/clear begins anew' 'the conversation is empty'
report '/clear leaves nothing to reuse but the beginning' "$(grep 'last prompt' "$tap_out" | grep -q -E ' [0-2] reused' || cat "$tap_out")"

chat "/system Be kind.\n/think none\nHello\n/save $tap_dir/saved\n/think high\n/load $tap_dir/saved\n/think\n/system\n"
expect_text '/save' 'saved 2 messages'
expect_text '/load' 'loaded 2 messages'
expect_text '/load brings the settings back' 'thinking: none'
report 'the file is JSON with everything' "$(python3 -c '
import json, sys
o = json.load(open(sys.argv[1]))
assert [m["role"] for m in o["messages"]] == ["user", "assistant"] and o["system"] == "Be kind." and o["think"] == "none"
' "$tap_dir/saved" 2>&1)"
chat "/load $tap_dir/saved\nAnd you?\n/save $tap_dir/again\n"
report 'a loaded conversation goes on' "$(python3 -c '
import json, sys
a, b = (json.load(open(p)) for p in sys.argv[1:])
assert b["messages"][:2] == a["messages"] and len(b["messages"]) == 4' "$tap_dir/saved" "$tap_dir/again" 2>&1)"
chat "Hello\n/save $tap_dir/whole\n" --system 'Be kind.'
cmp -s "$tap_dir/whole" "$tap_dir/saved"
report 'an option is the same as a command' "$(python3 -c '
import json, sys
a, b = (json.load(open(p)) for p in sys.argv[1:])
assert a == b, (a, b)' "$tap_dir/whole" "$tap_dir/saved" 2>&1)"

# A conversation in which the model called a tool is loaded and answered.
cat >"$tap_dir/calls" <<'JSON'
{"think": "none", "tools": [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}],
 "messages": [{"role": "user", "content": "What time is it?"},
  {"role": "assistant", "content": "", "tool_calls": [{"id": "call_00", "type": "function",
    "function": {"name": "clock", "arguments": "{}"}}]},
  {"role": "tool", "tool_call_id": "call_00", "content": "12:30"}]}
JSON
chat "/load $tap_dir/calls\n/tools\nSo?\n"
expect_text 'a conversation with tool calls' 'tools: 1'
chat '/think high\nHi\n/stats\n'
expect_text '/think high thinks' '<think>'
chat '/help\n'
expect_text '/help lists the commands' '/stats'
echo '[{"type": "function", "function": {"name": "clock"}}]' >"$tap_dir/tools"
chat "/tools $tap_dir/tools\n/tools none\n"
expect_text '/tools reads a file' 'tools: 1'
expect_text '/tools none takes them away' 'tools: 0'

refused() { # refused NAME LINES TEXT: a line is refused with TEXT, the conversation goes on, the exit code tells
    chat "$2Hello\n/stats\n"
    problem=
    [ "$rc" -eq 1 ] || problem="exit code $rc;"
    grep -qF -- "$3" "$tap_err" || problem="$problem no '$3' in: $(cat "$tap_err")"
    grep -q 'all 1 replies' "$tap_out" || problem="$problem the conversation did not go on: $(cat "$tap_out")"
    report "$1" "$problem"
}
refused 'an unknown command' '/bogus\n' '/bogus'
refused 'an unknown effort' '/think deeply\n' 'deeply'
refused '/save without a name' '/save\n' '/save'
refused '/save to a place that is not there' '/save no/such/dir/x\n' 'no/such/dir'
refused '/load of a missing file' "/load $tap_dir/missing\n" 'missing'
refused '/load of a file that is no conversation' "/load $tap_dir/tools\n" 'messages'
refused '/tools of a missing file' "/tools $tap_dir/missing\n" 'missing'
refused 'a line that is not UTF-8' 'caf\0351\n' 'UTF-8'
chat "$(printf 'word %.0s' 1 2 3 4 5 6 7 8 9 10 11 12)\nHi\n/stats\n" --ctx 12
expect_text_rc() { report "$1" "$([ "$rc" -eq 1 ] && grep -q 'all 1 replies' "$tap_out" || cat "$tap_out" "$tap_err")"; }
expect_text_rc 'a turn beyond the context is refused and forgotten'

run "$HADAL" chat --help
expect_text 'help with examples' 'examples:'
run "$HADAL" chat -m $M stray
expect_error 'a stray argument' 2 'stray'
run "$HADAL" chat -m no/such/model
expect_error 'no model' 1 'no/such/model'
