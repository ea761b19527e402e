#!/bin/sh
# The kernel harness for 64-bit ARM: cross-compiled, run by qemu-user (packages gcc-aarch64-linux-gnu and qemu-user).
cross=aarch64-linux-gnu-gcc
if ! command -v $cross >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
    echo "1..0 # SKIP needs $cross and qemu-aarch64"
    exit 0
fi
tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
flags="-std=c11 -D_GNU_SOURCE -O2 -ffp-contract=off -pthread -Isrc"
for f in src/base/*.c src/num/*.c src/ops/*.c src/ops/cpu/*.c tests/check/*.c tests/check/neon/*.c; do
    case $f in
    src/base/topology.c | *_avx2.c | *_avx512.c | *_avx512bf16.c) continue ;;
    *_neondot.c) isa=-march=armv8.2-a+dotprod ;;
    *) isa= ;;
    esac
    # shellcheck disable=SC2086
    $cross $flags $isa -c -o "$tmp/$(echo "$f" | tr / _).o" "$f" || exit 1
done
$cross -static -pthread -o "$tmp/check" "$tmp"/*.o -lm || exit 1
qemu-aarch64 -cpu max "$tmp/check" "$@"
