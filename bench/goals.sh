#!/bin/sh
# The goals table: everything that the project promises about speed on one machine, measured without a hand, into
# bench/results: JSON and CSV of every run, a plot, and goals.md. Takes about ten minutes on two quiet cores once the
# slices exist; run it on a machine that does nothing else, and see the load that goals.md states.
#
#   bench/goals.sh [FLASH [PRO]]     slices of `hadal synth` (made in $TMPDIR/hadal-goals when not given: 16 GB and 6 GB, and
#                                    as much again for their packed weights)
#   CONTEXTS=LIST BATCHES=LIST DEPTH=LIST (of Flash, as in hadal bench)
#   ROUNDS=5  HADAL=./hadal  OUT=bench/results  PEERS=PYTHON (also bench/peers.py by it, see bench/peers.md)
set -eu
HADAL=${HADAL:-./hadal}
OUT=${OUT:-bench/results}
ROUNDS=${ROUNDS:-5}
CONTEXTS=${CONTEXTS:-4K,2K,8K,16K,32K,64K,128K,256K,512K,1M} # batches run at the first one
BATCHES=${BATCHES:-2,4,8,16,32,64}
DEPTH=${DEPTH:-32K}
WORK=${TMPDIR:-/tmp}/hadal-goals
FLASH=${1:-$WORK/flash}
PRO=${2:-$WORK/pro}
mkdir -p "$OUT" "$WORK"

[ -e "$FLASH/config.json" ] || "$HADAL" synth --shape flash --layers 4 --seed 7 -o "$FLASH"
[ -e "$PRO/config.json" ] || "$HADAL" synth --shape pro --layers 2 --experts 48 --seed 7 -o "$PRO"

measure() { # measure NAME MODEL OPTIONS...: NAME.json
    name=$1
    model=$2
    shift 2
    echo "goals: $name" >&2
    "$HADAL" bench -m "$model" --rounds "$ROUNDS" --json "$@" >"$OUT/$name.json.new"
    mv "$OUT/$name.json.new" "$OUT/$name.json"
}

{
    date -u '+date: %Y-%m-%d %H:%M UTC'
    echo "load: $(cut -d' ' -f1-3 /proc/loadavg)"
    echo "processor: $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $(nproc) CPUs"
} >"$OUT/machine.txt"

"$HADAL" convert -m "$FLASH" >&2
"$HADAL" convert -m "$PRO" >&2
measure flash "$FLASH" --ctx "$CONTEXTS" --batch "$BATCHES" --chunk 512,128 --depth "$DEPTH" \
    --svg "$OUT/flash.svg"
measure flash-native "$FLASH" --layout native --only decode --ctx 4K --batch 1
measure flash-again "$FLASH" --only decode --ctx 4K --batch 1 # beside native, for their ratio
measure flash-open "$FLASH" --only open # the second open, everything in the page cache
measure pro "$PRO" --ctx 4K,1M --batch 16 --chunk 512 --svg "$OUT/pro.svg"
[ -z "${PEERS:-}" ] || "$PEERS" bench/peers.py llama --hadal "$HADAL" --out "$OUT/peers.json"
echo "load at the end: $(cut -d' ' -f1-3 /proc/loadavg)" >>"$OUT/machine.txt"
python3 bench/goals.py "$OUT" >"$OUT/goals.md"
cat "$OUT/goals.md"
