#!/bin/sh
# hadal plan: numbers of the released widths, verdicts, JSON, refusals.
. tests/util/tap.sh
plan() { run "$HADAL" plan --bandwidth 100 --memory 64 "$@"; }

plan --shape flash
expect_text 'flash: KV bytes per token' 'KV cache: 3514 bytes per token'
expect_text 'flash: layers by kind' '43 layers (2 SWA, 21 CSA, 20 HCA)'
expect_text 'flash in 64 GB does not fit, and why' 'does not fit: weights 156 GB'
expect_text 'flash in 64 GB: the rest fits' 'all but the routed experts (147 GB) would fit'

run "$HADAL" plan --shape flash --bandwidth 100 --memory 200 --ctx 1M
expect_text 'flash in 200 GB fits with its drafter' 'fits, with its drafter'
run "$HADAL" plan --shape flash --bandwidth 100 --memory 157 --ctx 1M
expect_text 'flash in 157 GB: a smaller context would fit' 'tokens at this batch would fit'
run "$HADAL" plan --shape pro --bandwidth 100 --memory 8
expect_text 'pro in 8 GB: not even the rest' 'even without the routed experts'

plan --shape flash --compare v3.2
expect_text 'flash against V3.2: FLOPs' '10.0 %'
expect_text 'flash against V3.2: KV' '7.3 %'
plan --shape pro --compare v3.2
expect_text 'pro against V3.2: FLOPs' '26.5 %'
expect_text 'pro against V3.2: KV' '10.5 %'

plan --shape flash --json --batch 4 --ctx 4K
expect_json 'JSON: bytes of the checkpoint' weight_bytes 159609485896
expect_json 'JSON: context with a suffix' context 4096
expect_json 'JSON: KV bytes per token' kv_bytes_per_token 3514.25
expect_json 'JSON: contexts of the table' decode.3.context 1048576
expect_json 'JSON: bandwidth is the given one' bandwidth_bytes_per_s 100000000000.0
expect_json 'JSON: not measured' bandwidth_measured False
report 'JSON: tokens/s is bandwidth over bytes' "$(python3 -c '
import json, sys
p = json.load(open(sys.argv[1]))
for row in p["decode"]:
    want = p["bandwidth_bytes_per_s"] / (row["weight_bytes"] + row["kv_bytes"])
    if abs(row["tokens_per_s"] / want - 1) > 1e-9 or row["batch_tokens_per_s"] <= row["tokens_per_s"]:
        print(row, want)' "$tap_out" 2>&1)"

run "$HADAL" plan -m models/tiny --memory 8 --json
expect_json 'a model: planned bytes are the stored bytes' weight_bytes "$(json stored_bytes)"
expect_json 'bandwidth is measured when not given' bandwidth_measured True
report 'the measured bandwidth is plausible' "$(python3 -c '
import json, sys
b = json.load(open(sys.argv[1]))["bandwidth_bytes_per_s"]
if not 1e8 < b < 1e13: print(b)' "$tap_out" 2>&1)"
mkdir "$tap_dir/model"
cp tests/data/configs/DeepSeek-V4-Flash-0731.json "$tap_dir/model/config.json"
plan -m "$tap_dir/model" --json
expect_json 'config.json alone is enough' weight_bytes 166878536440
plan --shape flash --dspark --json
expect_json 'a shape with DSpark' weight_bytes 166878536440

plan
expect_error 'neither model nor shape' 2 'either --model or --shape'
plan --shape v3
expect_error 'unknown shape' 2 "'v3' is not one of flash, pro"
plan --shape flash --ctx 0
expect_error 'no context' 2 "'0' is no value"
plan --shape flash --ctx 2M
expect_error 'context beyond the model' 2 'at most 1048576 positions'
plan --shape flash --memory lots
expect_error 'memory that is no number' 2 "'lots' is no value"
plan --shape flash --compare v4
expect_error 'unknown comparison' 2 "'v4' is no value"
plan --shape flash extra
expect_error 'a stray argument' 2 "'extra' is not an option"
plan -m "$tap_dir/nowhere"
expect_error 'a missing model' 1 "$tap_dir/nowhere"
run "$HADAL" plan --help
expect_text 'help has examples' 'examples:'
