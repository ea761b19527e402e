#!/bin/sh
# hadal bench without a model: a slice of Flash's widths is made, measured, projected to the full depth and removed.
HADAL=${HADAL:-build/hadal}
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
TMPDIR=$tmp "$HADAL" bench --quick --json >"$tmp/rows.json" 2>"$tmp/err"
if [ $? -eq 0 ]; then echo "ok 1 - bench without a model"; else echo "not ok 1 - bench without a model"; fi
if python3 - "$tmp/rows.json" <<'PY'
import json
import sys

rows = {r["name"]: r for r in json.load(open(sys.argv[1]))}
assert 3000 < rows["kv.bytes_per_token.full_depth"]["value"] <= 3600
decode = rows["decode.ctx4096.batch1"]
# 43 layers and 256 experts read between 8 and 20 times what 4 layers do.
assert 8 < decode["value"] / decode["projected_full_depth"] < 20, decode
assert rows["indexer.keys250000"]["roofline"] > 0
PY
then echo "ok 2 - rows and the projection"; else echo "not ok 2 - rows and the projection"; fi
if ls "$tmp" | grep -q hadal-bench; then echo "not ok 3 - the slice is removed"; else echo "ok 3 - the slice is removed"; fi
