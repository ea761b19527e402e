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
for kind in ("machine.", "kv.", "decode", "prefill", "indexer", "attention"):
    assert any(r["name"].startswith(kind) for r in rows), kind
for r in rows:
    assert r["value"] > 0 and r["unit"], r
    if r["name"].startswith(("machine.", "kv.", "open")):
        assert r["roofline"] is None, r
    else:
        assert r["roofline"] > 0 and r["seconds"] > 0 and r["bytes"] > 0 and r["rounds"] > 0, r
        assert r["roofline_sum"] >= r["roofline"] * 0.999, r
        assert abs(r["gb_per_s"] * 1e9 * r["seconds"] / r["bytes"] - 1) < 1e-3, r
assert {r["name"] for r in rows} >= {"machine.read", "machine.bf16", "machine.int8", "machine.fp32"}
decode = next(r for r in rows if r["name"] == "decode.ctx4096.batch1")
assert abs(decode["value"] * decode["seconds"] - 1) < 1e-3 and decode["context"] == 4096, decode
PY
say $? "rows have a name, a value, a unit and a roofline fraction"

"$HADAL" bench -m models/tiny --quick --rounds 1 --only decode --ctx 64,1K --batch 3 --csv >"$tmp/rows.csv" 2>/dev/null
say $? "a list of contexts and one of batches"
[ "$(grep -c '^decode' "$tmp/rows.csv")" = 3 ] && grep -q '^decode.ctx64.batch3,' "$tmp/rows.csv"
say $? "one row a context at batch 1, one a batch at the first context"
! grep -q '^prefill' "$tmp/rows.csv"
say $? "--only leaves out other rows"
"$HADAL" bench -m models/tiny --serving --ctx 300 --rounds 1 --only "serving swarm" --csv >"$tmp/rows.csv" 2>/dev/null &&
    grep -q '^serving swarm prefill work,' "$tmp/rows.csv" && ! grep -q 'serving decode' "$tmp/rows.csv"
say $? "one part of --serving"


"$HADAL" bench -m models/tiny --quick --rounds 1 --only decode --ctx 64,256,1K --batch 2,4 --svg "$tmp/plot.svg" >/dev/null 2>&1
python3 - "$tmp/plot.svg" <<'PY'
import sys
import xml.etree.ElementTree as tree

svg = tree.parse(sys.argv[1]).getroot()
ns = "{http://www.w3.org/2000/svg}"
assert len(svg.findall(ns + "circle")) == 6, "3 contexts, 3 batches"
lines = [p.get("d") for p in svg.findall(ns + "path") if p.get("class") in ("speed", "roof")]
assert len(lines) == 6 and sum(d.count("L") for d in lines) == 8, lines
assert "nan" not in open(sys.argv[1]).read() and "inf" not in open(sys.argv[1]).read()
PY
say $? "the plot is XML with a point a row and a roofline a panel"
"$HADAL" bench -m models/tiny --quick --rounds 1 --only prefill --chunk 16 --depth 1K --csv >"$tmp/rows.csv" 2>/dev/null
[ "$(grep -c '^prefill.chunk16,' "$tmp/rows.csv")" = 1 ] && [ "$(grep -c '^prefill.chunk16.depth1024,' "$tmp/rows.csv")" = 1 ]
say $? "prefill at the start and at a depth"
[ "$(awk -F, '{ print NF }' "$tmp/rows.csv" | sort -u | wc -l)" = 1 ]
say $? "every line of CSV has the same number of fields"

"$HADAL" bench -m models/tiny --ctx 0 >/dev/null 2>&1
[ $? -eq 2 ]
say $? "a context of 0 is wrong usage"
"$HADAL" bench -m "$tmp/nothing" --quick >/dev/null 2>"$tmp/err"
[ $? -eq 1 ] && [ "$(wc -l <"$tmp/err")" -eq 1 ]
say $? "a missing model is one sentence and exit code 1"
