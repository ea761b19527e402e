#!/bin/sh
# Every call fails once, not only a few of each.
STRIDE=1 exec "${B:-build}/tests/fault/test_fault"
