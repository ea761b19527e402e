#!/bin/sh
# Mutation test: each row of the bug catalogue (docs/TESTING.md) that other engines really had is put into our code on
# purpose (MUTANT(n), src/base/mutant.h, compiled in by -DHADAL_MUTANTS only), and the named test must fail.
# Columns: mutant, what is wrong, test program, its argument or cmocka filter.
# Row 22 (expert cache) has no code yet to put a bug into.
set -u
B=${B:-build}
M=$B-mutants
make -s -j2 B="$M" OPT=-O2 DEFS=-DHADAL_MUTANTS "$M"/tests/golden/test_golden "$M"/tests/golden/test_invariance \
    "$M"/tests/unit/test_config "$M"/tests/unit/test_chat "$M"/tests/unit/test_chat_json || exit 1
mkdir -p "$M"
ln -sfn "$(cd "$B" && pwd)"/golden "$M"/golden
[ -d "$B"/golden ] || mkdir -p "$B"/golden
B=$M
export B
CMOCKA_MESSAGE_OUTPUT=TAP
export CMOCKA_MESSAGE_OUTPUT
out=$(mktemp) || exit 1
trap 'rm -f "$out"' EXIT

run() { # mutant, program, argument
    HADAL_MUTANT=$1
    export HADAL_MUTANT
    case $2 in
    golden) "$M"/tests/golden/test_golden "$M"/golden/"$3" ;;
    invariance) HADAL_TEST_FILTER=$3 "$M"/tests/golden/test_invariance ;;
    *) "$M"/tests/unit/test_"$2" ;;
    esac >"$out" 2>&1
}

n=0
bad=0
report() { # ok|not ok, text
    n=$((n + 1))
    echo "$1 $n - $2"
    [ "$1" = ok ] || bad=$((bad + 1))
}

# Without a mutant everything passes: otherwise a kill would mean nothing.
for case in "golden f32-tiny" "golden q-tiny" "invariance test_save_restore" "invariance test_take_back" \
    "invariance test_new_after_longer" "config -" "chat -" "chat_json -"; do
    set -- $case
    if run 0 "$1" "$2"; then report ok "no mutant: $1 $2 passes"; else report "not ok" "no mutant: $1 $2 fails"; fi
done

while IFS='|' read -r id what program arg; do
    if run "$id" "$program" "$arg"; then
        report "not ok" "mutant $id survives ($what): $program $arg passed"
    else
        killer=$(grep -m 1 '^not ok' "$out" | sed 's/^not ok [0-9]* - //; s/  */ /g' | cut -c1-60)
        report ok "mutant $id ($what) killed by $program $arg: $killer"
    fi
done <<EOF
1|window layers use the compressed layers' YaRN frequencies|golden|f32-tiny
2|YaRN magnitude on the attention scale|golden|f32-tiny
3|compressed keys rotated at their own number|golden|f32-tiny
4|no inverse rotation of the output|golden|f32-tiny
5|rotate_half pairs|golden|f32-tiny
6|no per-head query norm|golden|f32-tiny
7|no overlap of ratio-4 windows|golden|f32-tiny
8|window rows of earlier chunks forgotten|golden|f32-tiny
9|half of the state not restored|invariance|test_save_restore
10|one token taken back whatever was asked|invariance|test_take_back
11|no Hadamard and no FP4 rounding in the indexer|golden|q-tiny
12|first entries instead of selected ones|golden|f32-tiny
13|routing weights include the selection bias|golden|f32-tiny
14|no clamp on the shared expert|golden|f32-tiny
15|Sinkhorn starts with rows and forgets eps|golden|f32-tiny
16|no attention sink|golden|f32-tiny
17|FP4 nibbles swapped|golden|q-tiny
18|hash layers routed by score|golden|f32-tiny
19|drafter layer takes the kind of layer 1|golden|f32-tiny
20|MTP block fed with the stream of the position before|golden|f32-tiny
21|MTP block fed with the token at its own position|golden|f32-tiny
23|index row scales read in another order|golden|q-tiny
24|class default for a missing config key|config|-
25|empty thinking block when thinking is off|chat|-
26|reasoning must come back or the request is refused|chat|-
27|no limit on JSON nesting|chat_json|-
28|a new sequence keeps the old length|invariance|test_new_after_longer
29|any entries instead of selected ones|golden|f32-tiny
EOF
echo "1..$n"
[ "$bad" -eq 0 ]
