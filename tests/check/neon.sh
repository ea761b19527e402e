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
# What a processor lacks is refused, and its best level named.
while read -r cpu best; do
    qemu-aarch64 -cpu "$cpu" "$B/neon/check" --isa neon-i8mm 2>&1 | grep -q "no neon-i8mm (best is $best)" ||
        fail "on $cpu the best level is not $best"
done <<EOF
cortex-a57 neon
neoverse-n1 neon-dot
EOF
exec qemu-aarch64 -cpu max "$B/neon/check" --isa neon-i8mm "$@"
