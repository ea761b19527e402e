#!/bin/sh
# A recorded conversation of a coding agent, sent again turn by turn over the embedded model: how much of its prompts is hits.
. tests/util/tap.sh
run "$HADAL" bench -m models/tiny --serving --only 'serving agent' --conversation tests/data/agent/tally.json --json
report 'the conversation is replayed' "$([ "$rc" -eq 0 ] || cat "$tap_err")"
report 'at least 40 turns, at least 0.95 of the prompt tokens are hits' "$(python3 - "$tap_out" 2>&1 <<'PY'
import json
import sys

rows = {r["name"]: r["value"] for r in json.load(open(sys.argv[1]))}
if not (rows["serving agent, turns"] >= 40 and 0.95 <= rows["serving agent, hits"] < 1):
    print(rows)
PY
)"
printf '{"messages": [{"role": "user", "content": "x"}]}' >"$tap_dir/none"
run "$HADAL" bench -m models/tiny --serving --only 'serving agent' --conversation "$tap_dir/none"
expect_error 'a conversation without replies' 1 'no message is an assistant'
run "$HADAL" bench -m models/tiny --conversation "$tap_dir/none"
expect_error 'without --serving' 2 '--conversation is for --serving'
