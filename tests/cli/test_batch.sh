#!/bin/sh
# hadal batch: results, refused requests, going on after an interruption without losing or doubling a line, refusals.
# shellcheck disable=SC2154
. tests/util/tap.sh
in=$tap_dir/requests.jsonl out=$tap_dir/results.jsonl
batch() { run "$HADAL" batch -m models/tiny -i "$in" --concurrency 3 -o "$@"; }

python3 - "$in" <<'PY'
import json, sys
with open(sys.argv[1], "w") as f:
    for i in range(14):
        system = ("You add numbers. " if i % 2 else "You name colours. ") * 60
        body = {"model": "any", "messages": [{"role": "system", "content": system}, {"role": "user", "content": f"{i}?"}],
                "max_tokens": 20, "temperature": 1.5, "seed": i, "thinking": {"type": "disabled"}}
        if i == 5:
            body["messages"] = []
        print(json.dumps({"custom_id": f"r{i}", "method": "POST", "url": "/v1/chat/completions", "body": body}), file=f)
PY

# Every request has one result, and replies are those of the first run; says what is wrong.
compare() { # compare FILE LIKE
    python3 - "$1" "$2" <<'PY'
import json, sys
def load(path):
    lines = [json.loads(l) for l in open(path)]
    ids = [l["custom_id"] for l in lines]
    if len(set(ids)) != len(ids):
        print("doubled:", sorted(ids))
    return {l["custom_id"]: (l["response"]["status_code"], l["response"]["body"].get("choices")) for l in lines}
a, b = load(sys.argv[1]), load(sys.argv[2])
if sorted(a) != sorted(f"r{i}" for i in range(14)):
    print("ids", sorted(a))
if a != b:
    print("other replies than", sys.argv[2])
if [k for k in a if a[k][0] != 200] != ["r5"]:
    print("refused:", [k for k in a if a[k][0] != 200])
PY
}

batch "$out"
report 'every request has its result' "$([ "$rc" -eq 0 ] || cat "$tap_err"; compare "$out" "$out")"
report 'equal beginnings are computed once' \
    "$(grep -q -E ' [0-9]{4,} more from the cache' "$tap_err" || cat "$tap_err")"
cp "$out" "$tap_dir/all"
batch "$out"
report 'what is done is not done again' "$([ "$rc" -eq 0 ] || cat "$tap_err"; cmp "$out" "$tap_dir/all" 2>&1)"

size=$(wc -c <"$tap_dir/all")
head -c $((size * 2 / 3)) "$tap_dir/all" >"$out"
batch "$out"
report 'goes on after a half written line' "$([ "$rc" -eq 0 ] || cat "$tap_err"; compare "$out" "$tap_dir/all")"

: >"$out"
"$HADAL" batch -m models/tiny -i "$in" -o "$out" --concurrency 3 2>/dev/null &
pid=$!
i=0
while [ "$(wc -l <"$out" 2>/dev/null || echo 0)" -lt 3 ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
batch "$out"
report 'goes on after kill -9' "$([ "$rc" -eq 0 ] || cat "$tap_err"; compare "$out" "$tap_dir/all")"

: >"$out"
"$HADAL" batch -m models/tiny -i "$in" -o "$out" --concurrency 3 2>"$tap_dir/text" &
pid=$!
i=0
while [ "$(wc -l <"$out" 2>/dev/null || echo 0)" -lt 2 ] && [ $i -lt 300 ]; do sleep 0.1; i=$((i + 1)); done
kill -TERM $pid 2>/dev/null
rc=0
wait $pid || rc=$?
problem=
[ $rc -eq 130 ] || [ $rc -eq 0 ] || problem="exit code $rc: $(cat "$tap_dir/text")"
batch "$out"
report 'goes on after SIGTERM' "$problem$(compare "$out" "$tap_dir/all")"

exec 9>>"$out"
flock -n 9
batch "$out"
expect_error 'results that another process writes' 1 'being written by another process'
exec 9>&-

echo '{"custom_id": "zz", "response": null}' >"$tap_dir/foreign"
batch "$tap_dir/foreign"
expect_error 'results of another batch' 1 'line 1 is the result of no request'
cp "$in" "$tap_dir/good"
echo '{"custom_id": "r3", "body": {}}' >>"$in"
batch "$tap_dir/new"
expect_error 'a custom_id twice' 1 'lines 4 and 15 have the same custom_id'
(cat "$tap_dir/good"; echo '{"body": {}}') >"$in"
batch "$tap_dir/new"
expect_error 'no custom_id' 1 'line 15 has no "custom_id"'
(cat "$tap_dir/good"; echo '{"custom') >"$in"
batch "$tap_dir/new"
expect_error 'a line that is no JSON' 1 'line 15'
: >"$in"
batch "$tap_dir/new"
expect_error 'no requests' 1 'holds no requests'
run "$HADAL" batch -i "$in"
expect_error 'no output' 2 'are needed'
run "$HADAL" batch -i "$in" -o x --concurrency 0
expect_error 'concurrency out of range' 2 '--concurrency must be'
