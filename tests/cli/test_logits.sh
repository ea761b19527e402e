#!/bin/sh
# hadal logits: shapes, invariance of the numbers, input forms, refusals.
. tests/util/tap.sh
M=models/tiny
check() { # check NAME PYTHON: an expression over o (the JSON printed) and, when given as $3, p (another output)
    problem=$(python3 -c '
import json, math, sys
o = json.load(open(sys.argv[2]))
p = json.load(open(sys.argv[3])) if len(sys.argv) > 3 else None
if not eval(sys.argv[1]): print("false: " + sys.argv[1])' "$2" "$tap_out" $3 2>&1)
    [ "$rc" -eq 0 ] || problem="exit code $rc: $(cat "$tap_err")"
    report "$1" "$problem"
}
T=0,5,17,301,44,900,23,8,77,1234,6,2000

run "$HADAL" logits -m $M --tokens $T --positions all --json
cp "$tap_out" "$tap_dir/all"
check 'all positions' 'o["positions"] == list(range(12)) and [len(r) for r in o["logits"]] == [len(o["logits"][0])] * 12'
check 'numbers are finite' 'all(math.isfinite(x) for r in o["logits"] for x in r)'
run "$HADAL" logits -m $M --tokens $T --json
check 'the last position is the default' 'o["positions"] == [11] and o["logits"][0] == p["logits"][11]' "$tap_dir/all"
run "$HADAL" logits -m $M --tokens $T --positions 7,3,3 --json --chunk 5 --threads 1
check 'chosen positions, ascending and once, any chunk' \
    'o["positions"] == [3, 7] and o["logits"] == [p["logits"][3], p["logits"][7]]' "$tap_dir/all"
run "$HADAL" logits -m $M --tokens $T --positions all --json --chunk 1
check 'one token at a time gives the same numbers' 'o == p' "$tap_dir/all"

echo "$T" | tr ',' '\n' >"$tap_dir/ids"
run "$HADAL" logits -m $M --tokens "$tap_dir/ids" --positions all --json
check 'ids from a file' 'o == p' "$tap_dir/all"
run "$HADAL" logits -m $M --tokens '0 5, 17 301 44 900 23 8 77 1234 6 2000' --positions all --json
check 'ids with spaces' 'o == p' "$tap_dir/all"

for n in exact reference int8; do
    run "$HADAL" logits -m $M --tokens $T --positions all --json --numerics $n
    cp "$tap_out" "$tap_dir/$n"
    run "$HADAL" logits -m $M --tokens $T --positions all --json --numerics $n --chunk 3 --threads 1
    check "$n: chunks and threads do not matter" 'o == p' "$tap_dir/$n"
done
run "$HADAL" logits -m $M --tokens $T --positions all --json --numerics exact
check 'exact is not reference' 'o["logits"] != p["logits"]' "$tap_dir/reference"
run "$HADAL" logits -m $M --tokens $T --positions all --json --numerics fast
check 'fast is not int8' 'o["logits"] != p["logits"]' "$tap_dir/int8"
run "$HADAL" logits -m $M --tokens $T --positions all --json --numerics int8 --layout native
check 'int8: the stored layout gives the same numbers' 'o == p' "$tap_dir/int8"
mkdir "$tap_dir/scale"
cp models/tiny/*.json models/tiny/*.safetensors "$tap_dir/scale"
python3 - "$tap_dir/scale/model-00001-of-00002.safetensors" <<'END'
import json, struct, sys
with open(sys.argv[1], "r+b") as f: # the first scale of an expert becomes 2^-127, which the packed layout cannot hold
    n = struct.unpack("<Q", f.read(8))[0]
    t = json.loads(f.read(n))["layers.1.ffn.experts.0.w1.scale"]
    assert t["dtype"] == "F8_E8M0"
    f.seek(8 + n + t["data_offsets"][0])
    f.write(b"\0")
END
run "$HADAL" logits -m "$tap_dir/scale" --tokens 0,5,17 --numerics int8
expect_error 'int8: a scale that its layout cannot hold is refused' 1 \
    'numerics int8 needs FP4 weights with E8M0 scales above 2^-127, and 1 matrix has others; use fast'
run "$HADAL" logits -m "$tap_dir/scale" --tokens 0,5,17 --numerics fast
expect_text 'fast: the same model runs' 'position 2 (after token 17)'

run "$HADAL" logits -m $M --tokens $T --positions 0,10,11 --mtp --json
check 'MTP rows, none for the last position' \
    'o["mtp_positions"] == [0, 10] and [len(r) for r in o["mtp_logits"]] == [len(o["logits"][0])] * 2'
cp "$tap_out" "$tap_dir/mtp"
run "$HADAL" logits -m $M --tokens $T --positions 0,10,11 --mtp --json --chunk 2
check 'MTP rows do not depend on the chunk' 'o == p' "$tap_dir/mtp"
run "$HADAL" logits -m $M --tokens $T --positions 2,9 --stream-after 0 --json
check 'streams of a layer' 'len(o["streams"]) == 2 and len(o["streams"][0]) == len(o["streams"][1]) > 100'
cp "$tap_out" "$tap_dir/stream"
run "$HADAL" logits -m $M --tokens $T --positions 2,9 --stream-after 1 --json --chunk 4
check 'streams differ by layer' 'o["streams"] != p["streams"] and o["logits"] == p["logits"]' "$tap_dir/stream"

run "$HADAL" logits -m $M --tokens $T
expect_text 'a table for people' 'position 11 (after token 2000)'

run "$HADAL" logits --help
expect_text 'help with examples' 'examples:'
run "$HADAL" logits -m $M
expect_error 'no tokens given' 2 '--tokens'
run "$HADAL" logits -m $M --tokens 1 --chunk 0
expect_error 'a chunk of nothing' 2 '--chunk'
run "$HADAL" logits -m $M --tokens 1 --numerics sloppy
expect_error 'unknown numerics' 2 'sloppy'
run "$HADAL" logits -m $M --tokens 1 extra
expect_error 'a stray argument' 2 'extra'
run "$HADAL" logits -m $M --tokens 1,2,99999999
expect_error 'an id outside the vocabulary' 1 '99999999'
run "$HADAL" logits -m $M --tokens "$tap_dir/no-such-file"
expect_error 'a missing file' 1 'no-such-file'
echo 1,2,x3 >"$tap_dir/bad"
run "$HADAL" logits -m $M --tokens "$tap_dir/bad"
expect_error 'a file with something else in it' 1 'number 3'
: >"$tap_dir/empty"
run "$HADAL" logits -m $M --tokens "$tap_dir/empty"
expect_error 'an empty file' 1 'no token ids'
run "$HADAL" logits -m $M --tokens 1,2 --positions 2
expect_error 'a position beyond the tokens' 1 '--positions'
run "$HADAL" logits -m $M --tokens 1,2 --stream-after 200
expect_error 'a layer that is not there' 1 'layers'
run "$HADAL" logits -m no/such/model --tokens 1
expect_error 'no model' 1 'no/such/model'
