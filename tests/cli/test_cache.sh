#!/bin/sh
# --cache-dir: a conversation goes on from disk in a new process, also when the one before was killed; refusals.
. tests/util/tap.sh
M=models/tiny
D=$tap_dir/cache
chat() { # chat FILE OPTIONS...
    in=$1
    shift
    tap_out=$tap_dir/out
    tap_err=$tap_dir/err
    rc=0
    "$HADAL" chat -m $M --temperature 0 --max-tokens 12 "$@" <"$in" >"$tap_out" 2>"$tap_err" || rc=$?
}
reused() { sed -n 's/^last prompt: [0-9]* tokens, \([0-9]*\) reused.*/\1/p' "$tap_out"; }

python3 -c 'print("Tell me about " + " ".join("word%d" % i for i in range(120)) + "\n/stats")' >"$tap_dir/in"
chat "$tap_dir/in"
cp "$tap_out" "$tap_dir/fresh"
chat "$tap_dir/in" --cache-dir "$D" --cache-disk 64M
report 'a cache folder changes no answer' "$(head -n 1 "$tap_dir/fresh" | grep -q -F -x -f - "$tap_out" || cat "$tap_out" "$tap_err")"
report 'nothing is there at first' "$([ "$(reused)" = 0 ] || cat "$tap_out")"
report 'the folder is for its owner only' "$([ "$(stat -c %a "$D")" = 700 ] && ! stat -c %a "$D"/* | grep -v -x 600 || ls -la "$D")"
chat "$tap_dir/in" --cache-dir "$D"
report 'a new process goes on from disk' "$([ "$(reused)" -ge 256 ] || cat "$tap_out" "$tap_err")"
report 'with the same answer' "$(head -n 1 "$tap_dir/fresh" | grep -q -F -x -f - "$tap_out" || cat "$tap_out")"
chat "$tap_dir/in" --cache-dir "$D" --numerics reference
report 'other numerics use none of it' "$([ "$(reused)" = 0 ] || cat "$tap_out")"
chat "$tap_dir/in" --cache-dir "$D" --numerics int8
report 'nor does int8 use what fast left' "$([ "$(reused)" = 0 ] || cat "$tap_out")"
report 'and say why' "$(grep -q 'belongs to another model or other numerics: skipped' "$tap_err" || cat "$tap_err")"

# Killed in the middle of a conversation: what its first turn computed is there.
rm -rf "$D"
mkfifo "$tap_dir/pipe"
"$HADAL" chat -m $M --temperature 0 --max-tokens 12 --cache-dir "$D" <"$tap_dir/pipe" >"$tap_dir/killed" 2>"$tap_dir/killed_err" &
pid=$!
exec 3>"$tap_dir/pipe"
cat "$tap_dir/in" >&3
while ! grep -q 'all 1 replies' "$tap_dir/killed" && kill -0 $pid 2>/dev/null; do sleep 0.1; done
chat "$tap_dir/in" --cache-dir "$D"
report 'a second process is refused' "$([ "$rc" -eq 1 ] && grep -q 'in use by another process' "$tap_err" || cat "$tap_out" "$tap_err")"
while [ "$(find "$D" -name 'seg-*' | wc -l)" -lt 2 ] && kill -0 $pid 2>/dev/null; do sleep 0.1; done
sleep 1
kill -9 $pid
wait $pid 2>/dev/null
exec 3>&-
chat "$tap_dir/in" --cache-dir "$D"
report 'after kill -9 a new process goes on from disk' "$([ "$(reused)" -ge 256 ] || cat "$tap_out" "$tap_err")"
report 'with the same answer' "$(head -n 1 "$tap_dir/fresh" | grep -q -F -x -f - "$tap_out" || cat "$tap_out")"

# Refusals.
chat /dev/null --cache-disk 1G
report 'a size without a folder' "$([ "$rc" -eq 2 ] && grep -q 'needs --cache-dir' "$tap_err" || cat "$tap_err")"
chat /dev/null --cache-dir "$D" --cache-disk many
report 'a size that is none' "$([ "$rc" -eq 2 ] && grep -q 'must be a size' "$tap_err" || cat "$tap_err")"
chat /dev/null --cache-dir "$D" --cache-disk 10K
report 'too small a size' "$([ "$rc" -eq 1 ] && grep -q 'too small' "$tap_err" || cat "$tap_err")"
chmod 755 "$D"
chat /dev/null --cache-dir "$D"
report 'a folder that is open to others' "$([ "$rc" -eq 1 ] && grep -q 'mode 0700' "$tap_err" || cat "$tap_err")"
chat /dev/null --cache-dir "$tap_dir/no/such"
report 'a folder that cannot be made' "$([ "$rc" -eq 1 ] && grep -q 'cannot make' "$tap_err" || cat "$tap_err")"
