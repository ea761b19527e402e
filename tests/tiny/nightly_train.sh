#!/bin/sh
# The trainer's forward pass against the numpy reference; needs torch (pip install torch==2.13.0 tokenizers). TAP.
cd "$(dirname "$0")/../../tools/train_tiny" || exit 1
if ! python3 -c 'import torch, numpy, tokenizers' 2>/dev/null; then
    echo '1..0 # SKIP torch, numpy or tokenizers is not installed'
    exit 0
fi
OMP_NUM_THREADS=2 python3 check.py "$@" | tee "${TMPDIR:-/tmp}/train_check.$$"
! grep -q '^not ok' "${TMPDIR:-/tmp}/train_check.$$"
status=$?
rm -f "${TMPDIR:-/tmp}/train_check.$$"
exit $status
