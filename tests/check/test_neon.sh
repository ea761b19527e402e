#!/bin/sh
# Every NEON kernel at every level, on a part of the shapes and data; nightly_neon.sh takes all of them.
exec sh tests/check/neon.sh --quick
