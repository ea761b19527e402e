#!/bin/sh
# hadal tokenize and detokenize: output, errors, exit codes.
set -u
HADAL=${HADAL:-build/hadal}
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
gzip -dc tests/data/tokenizer/tokenizer.json.gz >"$dir/tokenizer.json"
n=0

# check NAME EXPECTED ACTUAL
check() {
    n=$((n + 1))
    if [ "$2" = "$3" ]; then
        echo "ok $n - $1"
    else
        echo "not ok $n - $1"
        printf 'expected: %s\nactual:   %s\n' "$2" "$3" | head -c 600
        echo
    fi
}

# refused NAME CODE WORD COMMAND...: exits with CODE and one sentence on stderr that holds WORD
refused() {
    name=$1 code=$2 word=$3
    shift 3
    "$@" >"$dir/out" 2>"$dir/err" </dev/null
    rc=$?
    n=$((n + 1))
    if [ $rc -eq "$code" ] && grep -qF -- "$word" "$dir/err" && [ ! -s "$dir/out" ] &&
        { [ "$code" -eq 2 ] || [ "$(wc -l <"$dir/err")" -eq 1 ]; }; then
        echo "ok $n - $name"
    else
        echo "not ok $n - $name"
        echo "exit code $rc"
        cat "$dir/err"
    fi
}

tok() { "$HADAL" tokenize --tokenizer "$dir" "$@"; }
detok() { "$HADAL" detokenize --tokenizer "$dir" "$@"; }

check "ids of an argument" "671 6102 294 8760 344" "$(tok 'The capital of France is')"
check "several arguments are one text" "671 6102 294 8760 344" "$(tok The capital of France is)"
check "the file instead of the folder" "671 6102" "$("$HADAL" tokenize -t "$dir/tokenizer.json" 'The capital')"
check "standard input, its line end included" "671 6102 201" "$(echo 'The capital' | tok)"
printf 'The capital' >"$dir/text"
check "a file" "671 6102" "$(tok -f "$dir/text")"
check "no text" "" "$(tok '')"
check "added tokens are plain text" "30 37947 32" "$(tok '<think>')"
check "added tokens are matched with --special" "128821" "$(tok --special '<think>')"
check "pieces" "$(printf '671\t"The"\n6102\t" capital"')" "$(tok --pieces 'The capital')"
check "JSON lines" "$(printf '[671, 6102]\n[]\n[128821]')" "$(printf '"The capital"\n""\n\n"<think>"\n' | tok --jsonl --special)"
check "JSON escapes" "[57664]" "$(echo '" caf\u00e9"' | tok --jsonl)"
check "a NUL in a JSON string" '"a\u0000b"' "$(echo '"a\u0000b"' | tok --jsonl | detok --jsonl)"
check "pieces of JSON lines" '[[671, "The"], [6102, " capital"]]' "$(echo '"The capital"' | tok --jsonl --pieces)"

check "text of ids" "The capital" "$(detok 671 6102)"
check "ids with commas" "The capital" "$(echo '671, 6102' | detok)"
check "text of JSON lines" "$(printf '"The capital"\n""\n"<think>"')" "$(printf '[671, 6102]\n[]\n[128821]\n' | detok --jsonl)"
check "special tokens left out" '"The<think>"' "$(echo '[0, 671, 128821, 1]' | detok --jsonl --skip-special)"
check "half a character is U+FFFD in JSON" "$(printf '"\357\277\275"')" "$(printf '\344\270' | tok | tr ' ' ',' | sed 's/.*/[&]/' | detok --jsonl)"
head -c 100000 "$HADAL" >"$dir/bytes"
tok -f "$dir/bytes" | detok >"$dir/back"
check "bytes of any kind come back" "same" "$(cmp "$dir/bytes" "$dir/back" && echo same)"
sed 's/^{"text": \(.*\), "ids": .*/\1/' tests/data/tokenizer/vectors.jsonl >"$dir/texts"
sed 's/.*, "ids": \(\[[^]]*\]\).*/\1/' tests/data/tokenizer/vectors.jsonl >"$dir/ids"
tok --jsonl --special -f "$dir/texts" >"$dir/got"
check "all vectors" "same" "$(cmp "$dir/ids" "$dir/got" && echo same)"

refused "no tokenizer given" 2 "--tokenizer" "$HADAL" tokenize text
refused "an unknown option" 2 "--nonsense" "$HADAL" tokenize -t "$dir" --nonsense
refused "text and a file" 2 "--file" "$HADAL" tokenize -t "$dir" -f "$dir/text" text
refused "JSON lines and a text" 2 "--jsonl" "$HADAL" tokenize -t "$dir" --jsonl text
refused "no such tokenizer" 1 "/no/such" "$HADAL" tokenize -t /no/such text
refused "a folder without tokenizer.json" 1 "tests/tokenizer.json" "$HADAL" tokenize -t tests text
refused "no such text" 1 "/no/such" "$HADAL" tokenize -t "$dir" -f /no/such
refused "no such JSON lines" 1 "/no/such" "$HADAL" tokenize -t "$dir" --jsonl -f /no/such
printf '"a"\n{}\n' >"$dir/bad"
"$HADAL" tokenize -t "$dir" --jsonl -f "$dir/bad" >"$dir/out" 2>"$dir/err"
check "a line that is no string: exit code" 1 $?
check "a line that is no string: named" 1 "$(grep -c 'bad: line 2: expected a JSON string' "$dir/err")"
check "a line that is no string: lines before it are answered" "[67]" "$(cat "$dir/out")"
refused "no id" 1 "'x1'" "$HADAL" detokenize -t "$dir" 671 x1
refused "an id outside the vocabulary" 1 "129280" "$HADAL" detokenize -t "$dir" 671 129280
refused "a negative id" 1 "-5" "$HADAL" detokenize -t "$dir" -- 671 -5
refused "an id beyond all numbers" 1 "99999999999999999999" "$HADAL" detokenize -t "$dir" 99999999999999999999
echo '[671, "x"]' >"$dir/bad"
refused "no id in a JSON line" 1 "line 1: element 1" "$HADAL" detokenize -t "$dir" --jsonl -f "$dir/bad"
check "help of tokenize" 1 "$("$HADAL" tokenize --help | grep -c '^examples:')"
check "help of detokenize" 1 "$("$HADAL" detokenize --help | grep -c '^examples:')"
