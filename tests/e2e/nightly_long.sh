#!/bin/sh
# A prompt of more than 262,144 real tokens through the embedded model: read to its end, answered, and with the same words
# after a second reading in other steps. Then a decode at 1,048,575 tokens over made-up state, and the plan for it.
. tests/util/tap.sh
M=models/tiny
python3 -c '
words = "alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima".split()
print(" ".join(words[(i * i // 7) % 12] for i in range(int(__import__("sys").argv[1]))))' "${LONG_WORDS:-86000}" >"$tap_dir/long"
for threads in 1 2; do
    "$HADAL" run -m $M --ctx 400K --temperature 0 --max-tokens 16 --threads $threads --think none -f "$tap_dir/long" --json \
        >"$tap_dir/out$threads" 2>"$tap_dir/err$threads" || cat "$tap_dir/err$threads"
done
report 'more than 262,144 tokens are read and answered' "$(python3 -c '
import json, sys
u = json.load(open(sys.argv[1]))["usage"]
if u["prompt_tokens"] <= int(sys.argv[2]) or u["completion_tokens"] < 1: print(u)' "$tap_dir/out1" "${LONG_TOKENS:-262144}" 2>&1)"
report 'the same words with another number of threads' "$(python3 -c '
import json, sys
a, b = (json.load(open(p))["content"] for p in sys.argv[1:])
if a != b: print(repr(a), repr(b))' "$tap_dir/out1" "$tap_dir/out2" 2>&1)"
"$HADAL" bench -m $M --only decode --ctx 1M --rounds 3 --json >"$tap_dir/bench" 2>"$tap_dir/err" || cat "$tap_dir/err"
report 'a decode at a million tokens' "$(python3 -c '
import json, sys
rows = [r for r in json.load(open(sys.argv[1])) if r["name"].startswith("decode.ctx") and r["value"] > 0]
if not rows: print("no row")' "$tap_dir/bench" 2>&1)"
report 'the plan for a million tokens' "$("$HADAL" plan -m $M --ctx 1M >"$tap_dir/plan" 2>&1 || cat "$tap_dir/plan")"
