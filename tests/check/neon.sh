#!/bin/sh
# Builds the kernel harness for 64-bit ARM and runs it by qemu-user, with the harness's own options. A missing tool is a
# failure: tools/setup.sh test installs both.
B=${B:-build}
fail() {
    echo "not ok 1 - the kernel harness for 64-bit ARM"
    echo "# $1"
    exit 1
}
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v $tool >/dev/null || fail "$tool is missing; tools/setup.sh test installs it"
done
MAKEFLAGS='' make -s -j"$(nproc)" B="$B" "$B/neon/check" || fail 'it does not build'
exec qemu-aarch64 -cpu max "$B/neon/check" "$@"
