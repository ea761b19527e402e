#!/bin/sh
# Every NEON kernel on all shapes and data, some minutes under qemu.
exec sh tests/check/neon.sh
