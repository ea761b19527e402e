#!/bin/sh
# Replays tests/fuzz/corpus/NAME/* through the target fuzz_NAME: what once crashed, or is worth remembering, stays tested.
B=${B:-build}
n=0
for target in "$B"/tests/fuzz/fuzz_*; do
    case $target in *.o | *.d) continue ;; esac
    [ -x "$target" ] || continue
    name=${target##*/fuzz_}
    n=$((n + 1))
    set -- tests/fuzz/corpus/"$name"/*
    if [ ! -f "$1" ]; then
        echo "not ok $n - fuzz_$name has no corpus in tests/fuzz/corpus/$name"
        continue
    fi
    if ! "$target" "$@" >"$B/tests/fuzz/$name.log" 2>&1; then
        echo "not ok $n - fuzz_$name on $# files"
        tail -n 30 "$B/tests/fuzz/$name.log"
    else
        echo "ok $n - fuzz_$name on $# files"
    fi
done
[ "$n" -gt 0 ] || echo "not ok 1 - no fuzz target is built"
