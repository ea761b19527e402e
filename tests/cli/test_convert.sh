#!/bin/sh
# hadal convert, and the layouts that commands over a model choose from.
. tests/util/tap.sh
XDG_CACHE_HOME=$tap_dir/cache
export XDG_CACHE_HOME
m=$tap_dir/model
"$HADAL" synth --shape tiny --layers 3 -o "$m" >/dev/null 2>&1 || exit 1
logits() { "$HADAL" logits -m "$m" --tokens 1,2,3 --json "$@" | sha256sum; }

run "$HADAL" convert -m "$m"
expect_text 'makes the file beside the model' "$m/packed.hadal: "
run "$HADAL" convert -m "$m"
expect_text 'a file that fits is left alone' 'fits the checkpoint already'
run "$HADAL" convert -m "$m" --verify
expect_text 'every checksum can be compared' 'every checksum holds'
report 'the file gives the same logits as packing in memory' \
    "$([ "$(logits --packed "$m/packed.hadal")" = "$(logits --layout memory)" ] || echo differs)"
report 'so do the official files as they are' "$([ "$(logits --layout native)" = "$(logits --layout memory)" ] || echo differs)"
printf '\377' | dd of="$m/packed.hadal" bs=1 seek=2100000 conv=notrunc 2>/dev/null
run "$HADAL" convert -m "$m" --verify
expect_error 'a changed byte is found' 1 'damaged: the checksum of layers.'
run "$HADAL" convert -m "$m" -o "$tap_dir/other.hadal"
expect_text 'another place' "$tap_dir/other.hadal: "
run "$HADAL" logits -m "$m" --tokens 1 --packed "$tap_dir/other.hadal" --numerics exact
expect_error 'a packed file where it would not be used is refused' 1 'for fast and int8 numerics and the packed layout only'
touch "$m"/model*.safetensors
run "$HADAL" logits -m "$m" --tokens 1 --packed "$tap_dir/other.hadal"
expect_error 'a file of another checkpoint is refused' 1 'was made from other files'
run "$HADAL" convert -m "$m"
report 'and made anew where it lies' "$(grep -q ' GB in ' "$tap_out" || cat "$tap_out" "$tap_err")"
rm "$m/packed.hadal"
run sh -c "ulimit -f 2000; exec '$HADAL' convert -m '$m'"
expect_error 'a disk that is too small' 1 'for which there is no room'
report 'leaves nothing behind' "$(ls "$m" | grep -v '^config.json$\|^model\|^tokenizer.json$')"
run "$HADAL" logits -m "$m" --tokens 1 --memory 0.0001
expect_error 'a model that does not fit says so, with the plan' 1 'does not fit into memory: routed experts'
run "$HADAL" logits -m "$m" --tokens 1 --layout other
expect_error 'a layout that is not known' 2 'packed, memory or native'
run "$HADAL" convert -m "$tap_dir/nothing"
expect_error 'a missing model' 1 'config.json'
