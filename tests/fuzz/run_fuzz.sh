#!/bin/sh
# tests/fuzz/run_fuzz.sh BUILD_DIR SECONDS: libFuzzer on every target, from the committed corpus; new inputs go under
# BUILD_DIR, a crashing input is named at the end. The last line is "N passed, N failed".
set -u
dir=$1
seconds=$2
passed=0
failed=0
for target in "$dir"/tests/fuzz/fuzz_*; do
    case $target in *.o | *.d) continue ;; esac
    name=${target##*/fuzz_}
    found=$dir/corpus/$name
    mkdir -p "$found"
    if "$target" -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -artifact_prefix="$dir/crash-$name-" \
        -print_final_stats=1 "$found" "tests/fuzz/corpus/$name" >"$dir/$name.log" 2>&1; then
        passed=$((passed + 1))
        printf '%-24s %s\n' "$name" "$(grep -o 'number_of_executed_units: .*' "$dir/$name.log")"
    else
        failed=$((failed + 1))
        printf '%-24s FAILED, input in %s\n' "$name" "$(ls "$dir"/crash-"$name"-* 2>/dev/null | head -n 1)"
        tail -n 25 "$dir/$name.log" | sed 's/^/    /'
    fi
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
