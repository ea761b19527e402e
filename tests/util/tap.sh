# For test scripts: `. tests/util/tap.sh`, then report NAME PROBLEM and the checks below. Uses $HADAL.
HADAL=${HADAL:-./hadal}
n_checks=0
tap_dir=$(mktemp -d) || exit 1
trap 'rm -rf "$tap_dir"' EXIT

report() { # report NAME PROBLEM: ok when PROBLEM is empty
    n_checks=$((n_checks + 1))
    if [ -z "$2" ]; then
        echo "ok $n_checks - $1"
    else
        echo "not ok $n_checks - $1"
        echo "$2" | sed 's/^/# /'
    fi
}

run() { # run COMMAND...: leaves rc, and standard output and error in the files $tap_out and $tap_err
    tap_out=$tap_dir/out
    tap_err=$tap_dir/err
    rc=0
    "$@" >"$tap_out" 2>"$tap_err" </dev/null || rc=$?
}

expect_text() { # expect_text NAME TEXT: the last run ended with 0 and printed TEXT
    problem=
    [ "$rc" -eq 0 ] || problem="exit code $rc: $(cat "$tap_err")"
    grep -qF -- "$2" "$tap_out" || problem="$problem no '$2' in: $(head -c 2000 "$tap_out")"
    report "$1" "$problem"
}

expect_error() { # expect_error NAME CODE TEXT: the last run ended with CODE, one sentence on stderr with TEXT, no output
    problem=
    [ "$rc" -eq "$2" ] || problem="exit code $rc, expected $2;"
    grep -qF -- "$3" "$tap_err" || problem="$problem no '$3' in: $(head -c 2000 "$tap_err")"
    # Wrong usage adds the line that points to --help.
    [ "$(grep -c -v "^Try 'hadal" "$tap_err")" -eq 1 ] || problem="$problem not one sentence: $(cat "$tap_err")"
    [ ! -s "$tap_out" ] || problem="$problem printed: $(head -c 500 "$tap_out")"
    report "$1" "$problem"
}

json() { # json PATH: the value of the last run's JSON at a path such as decode.0.flops
    python3 -c '
import json, sys
v = json.load(open(sys.argv[1]))
for k in sys.argv[2].split("."):
    v = v[int(k)] if k.isdigit() else v[k]
print(v)' "$tap_out" "$1"
}

expect_json() { # expect_json NAME PATH VALUE
    got=$(json "$2" 2>&1)
    report "$1" "$([ "$got" = "$3" ] || echo "$2 is $got, expected $3")"
}
