#!/bin/sh
# hadal inspect: the card as text and JSON, the list of tensors, refusals; a header-only checkpoint of 149,782 tensors.
. tests/util/tap.sh
dir=$tap_dir/models
mkdir "$dir"

"$HADAL" synth --shape tiny --drafter mtp -o "$dir/tiny" || exit 1

run "$HADAL" inspect "$dir/tiny"
expect_text 'tiny: tensors, files, bytes' '547 tensors in 7 files, 8.99 MB'
expect_text 'tiny: layers by kind' '4: 1 SWA, 2 CSA, 1 HCA; the first 1 route by hash'
expect_text 'tiny: drafter' 'MTP'
expect_text 'tiny: dtypes' 'F8_E8M0'

run "$HADAL" inspect --tensors "$dir/tiny"
expect_text 'tiny: a tensor with dtype, shape, bytes and file' \
    'layers.1.attn.indexer.wq_b.weight                        F8_E4M3  [2048, 128] 262144 model-00003-of-00007.safetensors'
report 'tiny: every tensor has a line' "$([ "$(wc -l <"$tap_out")" -eq 547 ] || echo "$(wc -l <"$tap_out") lines")"

run "$HADAL" inspect --json --tensors "$dir/tiny"
expect_json 'JSON: number of tensors' tensors 547
expect_json 'JSON: bytes' bytes 8989054
expect_json 'JSON: layers' layers.csa 2
expect_json 'JSON: drafter' drafter.kind MTP
expect_json 'JSON: first component' components.0.name 'routed experts'
expect_json 'JSON: list of tensors' tensor_list.0.name embed.weight
expect_json 'JSON: shape' tensor_list.0.shape.1 256

# The largest release: all headers, no data. Slow machines make this slow, not wrong; the time is printed for people.
python3 tests/fake_checkpoint.py DeepSeek-V4-Pro-0813 "$dir/pro" || exit 1
begin=$(date +%s%N)
run "$HADAL" inspect "$dir/pro"
end=$(date +%s%N)
expect_text 'Pro-0813: tensors and bytes' '149782 tensors in 66 files, 892.73 GB'
expect_text 'Pro-0813: parameters' '1.57 T + 77.50 B in the drafter'
expect_text 'Pro-0813: active parameters' 'active per token 48.85 B'
expect_text 'Pro-0813: drafter' 'DSpark, 3 stages, blocks of 5 tokens'
echo "# inspected 149,782 tensors in $(((end - begin) / 1000000)) ms"
rm -rf "$dir/pro"

python3 tests/fake_checkpoint.py DeepSeek-V4-Flash-0731 "$dir/vision" --vision || exit 1
run "$HADAL" inspect "$dir/vision"
expect_text 'Vision: tensors of the tower are named and ignored' '52 tensors are not part of the text model'
run "$HADAL" inspect --json "$dir/vision"
expect_json 'Vision: the ignored names' ignored.0 aligner.w1.weight

run "$HADAL" inspect "$dir/nowhere"
expect_error 'a missing folder is named' 1 "$dir/nowhere/config.json: cannot open"
sed 's/deepseek_v4"/deepseek_v41"/' "$dir/tiny/config.json" >"$dir/vision/config.json"
run "$HADAL" inspect "$dir/vision"
expect_error 'V4.1 is refused by name' 1 'DeepSeek-V4.1 is another architecture'
shard=model-00004-of-00007.safetensors
cp "$dir/tiny/$shard" "$dir/saved"
head -c 100000 "$dir/saved" >"$dir/tiny/$shard"
run "$HADAL" inspect "$dir/tiny"
expect_error 'a truncated shard is named' 1 "$shard: tensor layers.2."
printf '\0\0\0\100\0\0\0\0{}' >"$dir/tiny/$shard"
run "$HADAL" inspect "$dir/tiny"
expect_error 'a header of 1 GB is refused' 1 "$shard: its header claims 1073741824 bytes"
rm "$dir/tiny/$shard"
run "$HADAL" inspect "$dir/tiny"
expect_error 'a missing shard is named' 1 "$shard: does not exist"
run "$HADAL" inspect
expect_error 'no MODEL is wrong usage' 2 'expected one MODEL folder'
run "$HADAL" inspect --nonsense "$dir/tiny"
expect_error 'a wrong option is wrong usage' 2 '--nonsense'
run "$HADAL" inspect --help
expect_text 'help shows examples' 'examples:'
