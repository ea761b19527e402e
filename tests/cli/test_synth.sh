#!/bin/sh
# hadal synth: a checkpoint that opens, same seed same bytes, refusals, a file size limit, an interrupt.
. tests/util/tap.sh
dir=$tap_dir/models
mkdir "$dir"

run "$HADAL" synth --shape tiny --layers 4 --seed 7 --drafter dspark -o "$dir/a"
report 'writes without a word' "$([ "$rc" -eq 0 ] && [ ! -s "$tap_err" ] || cat "$tap_err")"
run "$HADAL" inspect "$dir/a"
expect_text 'the checkpoint opens' 'DSpark, 3 stages'
run "$HADAL" synth --shape tiny --seed 7 --drafter dspark --threads 1 -o "$dir/b"
report 'same seed, same bytes, one thread or many' "$(diff -r -q "$dir/a" "$dir/b" 2>&1)"
run "$HADAL" run -m "$dir/a" -p 'anything' --max-tokens 3 --seed 1 --json
expect_text 'it has a tokenizer: the engine answers' '"completion_tokens"'
run "$HADAL" tokenize -t "$dir/a" -s 'A"\<think>é'
expect_text 'a token for each byte, one for <think>' '68 37 95 261 198 172'
run "$HADAL" synth --shape tiny --layers 2 --experts 6 --vocab 100 -o "$dir/c"
run "$HADAL" inspect "$dir/c"
expect_text 'fewer experts' '6 experts of 128 (4 per token)'
expect_text 'fewer layers' '2: 1 SWA, 1 CSA, 0 HCA'
expect_text 'a smaller vocabulary' 'vocabulary       100'
report 'without room for a tokenizer' "$([ ! -e "$dir/c/tokenizer.json" ] || echo 'tokenizer.json is there')"

run "$HADAL" synth --shape tiny -o "$dir/a"
expect_error 'an occupied folder is left alone' 1 "$dir/a: already holds a checkpoint"
run "$HADAL" synth --shape tiny -o "$dir/x/y"
expect_error 'a folder that cannot be made' 1 "$dir/x/y: cannot make the folder"
run "$HADAL" synth -o "$dir/d"
expect_error 'no shape' 2 '--shape is missing'
run "$HADAL" synth --shape tiny
expect_error 'no folder' 2 '-o DIR is missing'
run "$HADAL" synth --shape big -o "$dir/d"
expect_error 'an unknown shape' 2 'expected flash, pro or tiny'
run "$HADAL" synth --shape tiny --layers many -o "$dir/d"
expect_error 'a number that is none' 2 '"many" is not a number'
run "$HADAL" synth --shape tiny --layers 0 -o "$dir/d"
expect_error 'no layers' 1 'the number of layers is 0'
run "$HADAL" synth --shape tiny --drafter eagle -o "$dir/d"
expect_error 'an unknown drafter' 2 '"eagle" is not known'
run "$HADAL" synth --nonsense
expect_error 'a wrong option' 2 '--nonsense'

# A file size limit stands for a full disk: blocks of 512 or 1024 bytes; either way the larger shards do not fit.
run sh -c "ulimit -f 1500; exec '$HADAL' synth --shape tiny -o '$dir/full'"
expect_error 'a write that fails: one sentence' 1 'cannot write, so the files of this checkpoint were removed again'
report 'a write that fails: nothing stays behind' "$([ ! -e "$dir/full" ] || ls -l "$dir/full")"

# An interrupt in the middle: 200 layers on one thread take long enough to be hit.
"$HADAL" synth --shape tiny --layers 200 --experts 64 --threads 1 -o "$dir/stop" 2>"$dir/err" &
pid=$!
while [ ! -e "$dir/stop/model-00003-of-00202.safetensors" ] && kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
kill -TERM "$pid"
rc=0
wait "$pid" || rc=$?
report 'an interrupt ends with code 1' "$([ "$rc" -eq 1 ] || echo "exit code $rc")"
report 'an interrupt leaves nothing behind' "$([ ! -e "$dir/stop" ] || ls -l "$dir/stop")"
