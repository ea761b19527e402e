#!/bin/sh
# Whole conversations through the program: a state kept between turns, a saved conversation in a new process, and single
# runs must give the same words.
. tests/util/tap.sh
M=models/tiny
chat() {
    printf '%b' "$1" >"$tap_dir/in"
    shift
    "$HADAL" chat -m $M --temperature 0 --max-tokens 40 "$@" <"$tap_dir/in" >"$tap_dir/out" 2>"$tap_dir/err" || cat "$tap_dir/err"
}
same() { # same NAME PYTHON FILE...: an expression over the files' JSON, a list f
    name=$1
    test=$2
    shift 2
    report "$name" "$(python3 -c '
import json, sys
f = [json.load(open(p)) for p in sys.argv[2:]]
if not eval(sys.argv[1]): print("false: " + sys.argv[1], f)' "$test" "$@" 2>&1)"
}

for think in none high; do
    chat "Who are you?\n/save $tap_dir/one\nWhat can you do?\n/stats\nThank you.\n/save $tap_dir/three\n" --think $think
    chat "/load $tap_dir/one\nWhat can you do?\nThank you.\n/save $tap_dir/loaded\n" --think $think
    same "think $think: a saved conversation goes on with the same words" 'f[0] == f[1] and len(f[0]["messages"]) == 6' \
        "$tap_dir/three" "$tap_dir/loaded"
    "$HADAL" run -m $M --temperature 0 --max-tokens 40 --think $think -p 'Who are you?' --json >"$tap_dir/run" 2>"$tap_dir/err"
    same "think $think: run says what chat says" 'f[0]["messages"][1]["content"] == f[1]["content"]' \
        "$tap_dir/three" "$tap_dir/run"
done
chat "Who are you?\n/save $tap_dir/reference\nWhat can you do?\n/save $tap_dir/reference\n" --numerics reference
chat "/load $tap_dir/reference\n/save $tap_dir/copy\n" --numerics reference
same 'a saved file loads to itself' 'f[0] == f[1]' "$tap_dir/reference" "$tap_dir/copy"
chat "Who are you?\n/save $tap_dir/one\nWhat can you do?\n/save $tap_dir/two\n" --numerics reference --threads 1
same 'reference numerics: one thread gives the same conversation' 'f[0]["messages"] == f[1]["messages"]' \
    "$tap_dir/reference" "$tap_dir/two"

# A prompt of some thousand tokens: several passes, every kind of layer with compressed entries.
python3 -c '
print("Here is a list of words. " + " ".join("alpha bravo charlie delta echo foxtrot golf hotel".split() * 250) + ". Which word is first?")' \
    >"$tap_dir/long"
for threads in 1 2; do
    "$HADAL" run -m $M --temperature 0 --max-tokens 30 --threads $threads -f "$tap_dir/long" --json \
        >"$tap_dir/long$threads" 2>"$tap_dir/err" || cat "$tap_dir/err"
done
same 'a long prompt is read and answered' 'f[0]["usage"]["prompt_tokens"] > 1800 and f[0]["usage"]["completion_tokens"] > 0' \
    "$tap_dir/long1"
same 'a long prompt: any thread count' 'f[0]["content"] == f[1]["content"]' "$tap_dir/long1" "$tap_dir/long2"
