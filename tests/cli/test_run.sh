#!/bin/sh
# shellcheck disable=SC2086
# hadal run: where the prompt comes from, output forms, determinism, Ctrl-C, refusals. No case depends on what the embedded
# model says.
. tests/util/tap.sh
M=models/tiny
hrun() { run "$HADAL" run -m $M --max-tokens 24 "$@"; }
# Nearly uniform tokens: what the weights have learned does not show.
HOT='--temperature 100 --seed'

same() { # same NAME FILE: the last run printed what FILE holds
    problem=$(cmp "$tap_out" "$2" 2>&1)
    [ "$rc" -eq 0 ] || problem="exit code $rc: $(cat "$tap_err")"
    report "$1" "$problem"
}
check() { # check NAME PYTHON: an expression over o (the JSON printed) and text (standard error)
    problem=$(python3 -c '
import json, sys
o, text = json.load(open(sys.argv[2])), open(sys.argv[3]).read()
if not eval(sys.argv[1]): print("false: " + sys.argv[1], o)' "$2" "$tap_out" "$tap_err" 2>&1)
    [ "$rc" -eq 0 ] || problem="exit code $rc: $(cat "$tap_err")"
    report "$1" "$problem"
}

# ---------------------------------------------------------------- the prompt
hrun -p 'Who are you?' $HOT 5
cp "$tap_out" "$tap_dir/five"
report 'the last line counts tokens' \
    "$(tail -n 1 "$tap_err" | grep -q -E '^prompt [0-9]+ tokens.*reply [0-9]+ tokens.*tokens/s; (stop|length|tool_calls)$' || cat "$tap_err")"
report 'the reply ends its line' "$([ "$(tail -c 1 "$tap_out" | od -An -c | tr -d ' ')" = '\n' ] || cat "$tap_out")"
hrun -p 'Who are you?' $HOT 5 --threads 1
same 'same seed, same bytes, any thread count' "$tap_dir/five"
hrun -p 'Who are you?' $HOT 6
report 'another seed, another reply' "$(cmp -s "$tap_out" "$tap_dir/five" && echo 'the same')"
printf 'Who are you?' >"$tap_dir/prompt"
hrun -f "$tap_dir/prompt" $HOT 5
same 'prompt from a file' "$tap_dir/five"
"$HADAL" run -m $M --max-tokens 24 $HOT 5 <"$tap_dir/prompt" >"$tap_dir/piped" 2>"$tap_err"
report 'prompt from a pipe' "$(cmp "$tap_dir/piped" "$tap_dir/five" 2>&1)"
hrun -p 'Who are you?' -f "$tap_dir/prompt" $HOT 5 --json
check 'text and file together' 'o["usage"]["prompt_tokens"] > 10'
HADAL_MODEL=$M run "$HADAL" run --max-tokens 24 -p 'Who are you?' $HOT 5
same 'model from $HADAL_MODEL' "$tap_dir/five"
run "$HADAL" run --max-tokens 24 -p 'Who are you?' $HOT 5
same 'models/tiny is the default' "$tap_dir/five"

# ---------------------------------------------------------------- options that change the reply
hrun -p 'Who are you?' --temperature 0
cp "$tap_out" "$tap_dir/greedy"
hrun -p 'Who are you?' --temperature 0 --seed 77
same 'greedy does not look at the seed' "$tap_dir/greedy"
hrun -p 'Who are you?' --top-k 1 --seed 3
same 'top-k 1 is greedy' "$tap_dir/greedy"
hrun -p 'Who are you?' --top-p 0.000001 --seed 3
same 'a small top-p is greedy' "$tap_dir/greedy"
hrun -p 'Who are you?' --min-p 1 --seed 3
same 'min-p 1 is greedy' "$tap_dir/greedy"
hrun -p 'Who are you?' $HOT 5 --json
check 'JSON: the fields' 'set(o) >= {"role", "content", "finish_reason", "seed", "usage"} and o["seed"] == 5'
check 'JSON: the count' '0 < o["usage"]["completion_tokens"] <= 24 and o["usage"]["reused_tokens"] == 0'
hrun -p 'Who are you?' --json --max-tokens 1 --temperature 0
check 'max-tokens 1' 'o["usage"]["completion_tokens"] == 1 and o["finish_reason"] == "length"'
stop=$(python3 -c 'import sys; t = open(sys.argv[1]).read(); print(t[1:3] if len(t) > 5 else t[:1], end="")' "$tap_dir/greedy")
hrun -p 'Who are you?' --temperature 0 --stop "$stop" --json
python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["content"], end="")' "$tap_out" >"$tap_dir/cut"
report 'stop cuts before the text' "$(python3 -c '
import sys
cut, whole, stop = open(sys.argv[1]).read(), open(sys.argv[2]).read(), sys.argv[3]
if cut != whole[:whole.index(stop)]: print(repr(cut), repr(whole), repr(stop))' "$tap_dir/cut" "$tap_dir/greedy" "$stop" 2>&1)"
hrun -p 'Who are you?' $HOT 5 --json --logprobs --top-logprobs 3
check 'logprobs: one entry a token, ordered' \
    'len(o["logprobs"]) == o["usage"]["completion_tokens"] and all(t["logprob"] <= 0 and len(t["top_logprobs"]) == 3 and
     t["top_logprobs"][0]["logprob"] >= t["top_logprobs"][1]["logprob"] for t in o["logprobs"])'
check 'logprobs: the bytes are the reply' \
    'bytes(b for t in o["logprobs"] for b in t["bytes"]).decode(errors="replace").startswith(o["content"][:8])'
hrun -p 'Who are you?' $HOT 5 --logprobs
same 'logprobs leave the reply as it is' "$tap_dir/five"
for n in exact reference int8; do
    hrun -p 'Who are you?' --temperature 0 --numerics $n
    report "--numerics $n runs" "$([ "$rc" -eq 0 ] && [ -s "$tap_out" ] || cat "$tap_err")"
done
hrun -p 'Hi' --think high --json $HOT 1
check 'thinking: the reply begins with reasoning' 'o["usage"]["reasoning_tokens"] > 0 or "reasoning_content" in o'
hrun -p 'Hi' --think max --json
check 'effort max adds to the prompt' 'o["usage"]["prompt_tokens"] > 30'
hrun -p 'Hi' --system 'Be brief and kind.' --json
check 'the system message is in the prompt' 'o["usage"]["prompt_tokens"] > 6'
echo '[{"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}]' >"$tap_dir/tools"
hrun -p 'Hi' --tools "$tap_dir/tools" --json
check 'tools are in the prompt' 'o["usage"]["prompt_tokens"] > 100'
hrun -p 'Once upon a time' --raw --seed 2 --json
check 'raw: begin token and text only' 'o["usage"]["prompt_tokens"] <= 8'
hrun -p 'Hi' --ctx 1K --json
check 'the context may be given in K' 'o["usage"]["completion_tokens"] >= 1'
hrun -p 'Hi' --ctx 10 --json
check 'the context bounds the reply' 'o["usage"]["prompt_tokens"] + o["usage"]["completion_tokens"] <= 10'

# ---------------------------------------------------------------- Ctrl-C
"$HADAL" run -m $M -p 'Who are you?' --max-tokens 1000000 --min-p 0 --temperature 100 >"$tap_dir/long" 2>"$tap_dir/long_err" &
pid=$!
while [ ! -s "$tap_dir/long" ] && kill -0 $pid 2>/dev/null; do sleep 0.05; done
kill -INT $pid
wait $pid
rc=$?
report 'Ctrl-C ends the reply with 130' "$([ "$rc" -eq 130 ] || echo "exit code $rc")"
report 'Ctrl-C: the last line still counts' "$(grep -q '; cancelled$' "$tap_dir/long_err" || cat "$tap_dir/long_err")"

# ---------------------------------------------------------------- refusals
run "$HADAL" run --help
expect_text 'help with examples' 'examples:'
hrun -p ''
expect_error 'an empty prompt' 1 'empty'
hrun -p x --temperature -1
expect_error 'temperature below 0' 2 '--temperature'
hrun -p x --top-p 2
expect_error 'top-p above 1' 2 '--top-p'
hrun -p x --top-k many
expect_error 'top-k that is no number' 2 '--top-k'
hrun -p x --think deeply
expect_error 'an unknown effort' 2 'deeply'
hrun -p x --stop ''
expect_error 'an empty stop text' 2 '--stop'
hrun -p x --top-logprobs 3
expect_error 'top-logprobs alone' 2 '--logprobs'
hrun -p x --raw --think low
expect_error 'raw with thinking' 2 '--raw'
hrun -p x y
expect_error 'a stray argument' 2 "'y'"
hrun -p x --isa sse9
expect_error 'an unknown instruction set' 2 'sse9'
hrun -p x --bogus
report 'an unknown option' "$([ "$rc" -eq 2 ] || echo "exit code $rc")"
hrun -f "$tap_dir/missing"
expect_error 'a missing prompt file' 1 'missing'
hrun -p x --tools "$tap_dir/missing"
expect_error 'a missing tools file' 1 'missing'
echo '{"a": 1}' >"$tap_dir/notools"
hrun -p x --tools "$tap_dir/notools"
expect_error 'a tools file without tools' 1 'notools'
printf 'caf\351' >"$tap_dir/latin1"
hrun -f "$tap_dir/latin1"
expect_error 'a prompt that is not UTF-8' 1 'UTF-8'
run "$HADAL" run -m no/such/model -p x
expect_error 'no model' 1 'no/such/model'
run "$HADAL" run -m $M -p x --ctx 1025K
expect_error 'a context beyond the model' 1 'was made for'
hrun -p x --ctx 5G
expect_error 'a context that is no number' 2 '--ctx'
hrun -p 'one two three four five six seven eight' --ctx 8
expect_error 'a prompt longer than the context' 1 'context'
