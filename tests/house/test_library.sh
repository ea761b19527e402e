#!/bin/sh
# The library as others see it: exported symbols, headers on their own, installation, an example built against it.
B=${B:-build}
CC=${CC:-gcc}
n=0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

report() { # report NAME PROBLEMS...: ok when the rest is empty
    n=$((n + 1))
    if [ -z "$2" ]; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        echo "$2" | sed 's/^/# /'
    fi
}

exported=$(nm -D --defined-only "$B/libhadal.so" | awk '{ print $3 }')
report 'libhadal.so exports hadal_ symbols' "$(echo "$exported" | grep -q '^hadal_' || echo 'none is exported')"
report 'libhadal.so exports nothing else' "$(echo "$exported" | grep -v -E '^(hadal_|_init$|_fini$|$)')"

problems=
for h in include/*.h src/*/*.h src/*/*/*.h; do
    [ -f "$h" ] || continue
    # Templates want their parameters first, headers of an instruction set its compiler flags.
    case $h in *_tmpl.h | *_avx2.h | *_avx512.h | *_neon.h) continue ;; esac
    case $h in src/*) inc=${h#src/} ;; *) inc=${h#include/} ;; esac
    echo "#include \"$inc\"" >"$work/one.c"
    # The folder of a header's own floor is never on the path; C11 pedantry applies to the public header only.
    std=-std=c11
    case $h in include/*) std='-std=c99 -pedantic' ;; esac
    # shellcheck disable=SC2086
    out=$($CC $std -D_GNU_SOURCE -Wall -Wextra -Werror -Isrc -Iinclude -fsyntax-only "$work/one.c" 2>&1) ||
        problems="$problems$h: $out
"
done
report 'every header compiles alone' "$problems"

out=$(make -s B="$B" CC="$CC" DESTDIR="$work/inst" PREFIX=/usr install 2>&1) || out="install failed: $out"
report 'make install' "$(echo "$out" | grep -v '^hadal: ')"
missing=
for f in bin/hadal include/hadal.h lib/libhadal.a lib/libhadal.so lib/pkgconfig/hadal.pc share/man/man1/hadal.1; do
    [ -f "$work/inst/usr/$f" ] || missing="$missing $f"
done
report 'the installed files are there' "$missing"
foreign=$(nm -g --defined-only "$work/inst/usr/lib/libhadal.a" 2>/dev/null | awk 'NF == 3 { print $3 }' | grep -v '^hadal_')
report 'the installed archive offers hadal_ names only' "$foreign"

export PKG_CONFIG_SYSROOT_DIR="$work/inst" PKG_CONFIG_PATH="$work/inst/usr/lib/pkgconfig"
cat >"$work/use.c" <<'C'
#include <hadal.h>
#include <stdio.h>
#include <string.h>

int main(void)
{
    printf("%s\n", hadal_version());
    return strcmp(hadal_version(), HADAL_VERSION) != 0;
}
C
# shellcheck disable=SC2046
out=$($CC -o "$work/shared" "$work/use.c" $(pkg-config --cflags --libs hadal 2>&1) 2>&1 &&
    LD_LIBRARY_PATH="$work/inst/usr/lib" "$work/shared" 2>&1) || true
report 'a program built with pkg-config runs against libhadal.so' "$(echo "$out" | grep -v -E '^[0-9]+\.[0-9]+\.[0-9]+$')"
# shellcheck disable=SC2046
out=$($CC -o "$work/static" "$work/use.c" $(pkg-config --cflags hadal) "$work/inst/usr/lib/libhadal.a" \
    $(pkg-config --libs --static hadal | sed 's/-lhadal//') 2>&1 && "$work/static" 2>&1) || true
report 'a program built with libhadal.a runs' "$(echo "$out" | grep -v -E '^[0-9]+\.[0-9]+\.[0-9]+$')"
