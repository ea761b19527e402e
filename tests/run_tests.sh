#!/bin/sh
# Runs test programs and counts their TAP lines ("ok N - name", "not ok N - name").
#
#   tests/run_tests.sh SUITE...      SUITE: a folder under tests/ (unit, cli, tiny, ...)
#
# A suite's programs are $B/tests/SUITE/test_* (compiled) and tests/SUITE/test_*.sh or .py (scripts). A program that
# dies or reports nothing counts as one failure. Failures' output is shown. The last line is "N passed, N failed".
# KIND=nightly runs the programs named nightly_* instead; only those may skip themselves ("1..0 # SKIP why").
set -u
B=${B:-build}
export B
HADAL=${HADAL:-$PWD/$B/hadal}
export HADAL
KIND=${KIND:-test}
# A refused allocation returns NULL, as without the sanitizer: tests ask for absurd sizes.
export ASAN_OPTIONS="${ASAN_OPTIONS:-allocator_may_return_null=1}"
CMOCKA_MESSAGE_OUTPUT=TAP
export CMOCKA_MESSAGE_OUTPUT
passed=0
failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT

run_one() {
    case $1 in
    *.py) python3 -B "$1" >"$log" 2>&1 ;;
    *.sh) sh "$1" >"$log" 2>&1 ;;
    *) "$1" >"$log" 2>&1 ;;
    esac
    rc=$?
    good=$(grep -c '^ok ' "$log")
    bad=$(grep -c '^not ok ' "$log")
    if [ "$bad" -eq 0 ] && { [ "$rc" -ne 0 ] || [ "$good" -eq 0 ]; }; then
        bad=1
    fi
    if [ "$KIND" = nightly ] && [ "$rc" -eq 0 ] && [ "$good" -eq 0 ] && grep -q '^1\.\.0 # SKIP' "$log"; then
        printf '%-44s %s\n' "$1" "$(grep '^1\.\.0 # SKIP' "$log")"
        return
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    printf '%-44s %5d passed %3d failed\n' "$1" "$good" "$bad"
    if [ "$bad" -ne 0 ]; then
        printf '    exit status %d; last lines:\n' "$rc"
        grep -v '^ok ' "$log" | tail -n 40 | sed 's/^/    /'
    fi
}

for suite in "$@"; do
    for t in "$B/tests/$suite/$KIND"_* "tests/$suite/$KIND"_*.sh "tests/$suite/$KIND"_*.py; do
        case $t in *.o | *.d) continue ;; esac
        [ -f "$t" ] && run_one "$t"
    done
done
printf '%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
