#!/bin/sh
# The example program: compiled against the header and both libraries, run; the header is clean C++ too.
. tests/util/tap.sh
B=${B:-build}
CC=${CC:-gcc}
ask=$tap_dir/ask

# shellcheck disable=SC2086
run $CC -std=c11 -Wall -Wextra -Werror $SAN -Iinclude -o "$ask" examples/ask.c "$B/libhadal.a" -ljansson -lpcre2-8 -lxxhash -luring -lhwloc -lm -pthread
report 'the example compiles against libhadal.a' "$(cat "$tap_err")"
run "$ask" models/tiny 'Who are you?'
expect_text 'the example answers' ' tokens'
run "$ask" no/such/model 'Who are you?'
expect_error 'the example tells why a model does not open' 1 'no/such/model'
run "$ask"
expect_error 'the example tells its usage' 2 'usage'

# shellcheck disable=SC2086
run $CC -std=c11 $SAN -Iinclude -o "$ask" examples/ask.c "$B/libhadal.so" -Wl,-rpath,"$(cd "$B" && pwd)"
ln -sf "$(cd "$B" && pwd)/libhadal.so" "$tap_dir/libhadal.so.0"
run env LD_LIBRARY_PATH="$tap_dir" "$ask" models/tiny 'Who are you?'
expect_text 'the example answers with libhadal.so' ' tokens'

if command -v c++ >/dev/null; then
    echo '#include <hadal.h>
int main() { hadal_options o; hadal_options_init(&o); return o.size == sizeof o ? 0 : 1; }' >"$tap_dir/use.cc"
    run c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -Iinclude -fsyntax-only "$tap_dir/use.cc"
    report 'hadal.h is clean C++' "$(cat "$tap_err")"
else
    report 'hadal.h is clean C++ # SKIP there is no C++ compiler' ''
fi
