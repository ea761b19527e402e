#!/bin/sh
# hadal bench: rows of every kind for the embedded model, in each output format, and refusals.
HADAL=${HADAL:-build/hadal}
n=0
say() {
    n=$((n + 1))
    if [ "$1" -eq 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; fi
}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT

"$HADAL" bench -m models/tiny --quick --json >"$tmp/rows.json" 2>"$tmp/err"
say $? "bench --quick --json ends well"
python3 - "$tmp/rows.json" <<'PY'
import json
import sys

rows = json.load(open(sys.argv[1]))
for kind in ("machine.", "decode", "prefill", "indexer", "attention"):
    assert any(r["name"].startswith(kind) for r in rows), kind
for r in rows:
    assert r["value"] > 0 and r["unit"], r
    if r["name"].startswith("machine."):
        assert r["roofline"] is None, r
    else:
        assert r["roofline"] > 0 and r["seconds"] > 0 and r["bytes"] > 0, r
decode = next(r for r in rows if r["name"] == "decode.ctx2048.batch1")
assert abs(decode["value"] * decode["seconds"] - 1) < 1e-3, decode
PY
say $? "rows have a name, a value, a unit and a roofline fraction"

"$HADAL" bench -m models/tiny --quick --rounds 1 --only decode --ctx 64,1K --batch 3 --csv >"$tmp/rows.csv" 2>/dev/null
say $? "a list of contexts and one of batches"
[ "$(grep -c '^decode' "$tmp/rows.csv")" = 3 ] && grep -q '^decode.ctx64.batch3,' "$tmp/rows.csv"
say $? "one row a context at batch 1, one a batch at the first context"
! grep -q '^prefill' "$tmp/rows.csv"
say $? "--only leaves out other rows"

"$HADAL" bench -m models/tiny --ctx 0 >/dev/null 2>&1
[ $? -eq 2 ]
say $? "a context of 0 is wrong usage"
"$HADAL" bench -m "$tmp/nothing" --quick >/dev/null 2>"$tmp/err"
[ $? -eq 1 ] && [ "$(wc -l <"$tmp/err")" -eq 1 ]
say $? "a missing model is one sentence and exit code 1"
