#!/bin/sh
# hadal encode: the official cases, requests a line, options, refusals.
. tests/util/tap.sh
data=tests/data/encoding
in=$tap_dir/in

same_file() { # same_file NAME FILE: the last run printed the file, byte for byte
    report "$1" "$(cmp "$tap_out" "$2" 2>&1)$(cat "$tap_err")"
}

for i in 1 2 3; do
    run "$HADAL" encode --thinking "$data/test_input_$i.json"
    same_file "official case $i" "$data/test_output_$i.txt"
done
run "$HADAL" encode "$data/test_input_4.json"
same_file 'official case 4' "$data/test_output_4.txt"
run "$HADAL" encode --thinking --profile official "$data/test_input_1.json"
same_file 'official case 1, official profile' "$data/test_output_1.txt"

# the same cases as requests a line
python3 - "$data" "$in" <<'PY'
import json, sys
with open(sys.argv[2], "w") as out:
    for i in range(1, 5):
        request = json.load(open(f"{sys.argv[1]}/test_input_{i}.json"))
        if isinstance(request, list):
            request = {"messages": request}
        request["thinking"] = {"type": "disabled"} if i == 4 else i == 2 or {"type": "enabled"}
        print(json.dumps(request, ensure_ascii=i % 2 == 0), file=out)
PY
run "$HADAL" encode --jsonl "$in"
python3 - "$data" "$tap_out" >"$tap_dir/why" 2>&1 <<'PY'
import json, sys
lines = [json.loads(l) for l in open(sys.argv[2])]
assert len(lines) == 4, f"{len(lines)} lines"
for i, line in enumerate(lines, 1):
    assert list(line) == ["prompt"], list(line)
    assert line["prompt"] == open(f"{sys.argv[1]}/test_output_{i}.txt", newline="").read(), f"case {i}"
PY
report 'official cases a line' "$(cat "$tap_dir/why")"

run "$HADAL" encode --jsonl --tokenizer models/tiny "$in"
cp "$tap_out" "$tap_dir/lines"
python3 - "$tap_dir/lines" >"$tap_dir/ids" <<'PY'
import json, sys
for line in open(sys.argv[1]):
    print(json.dumps(json.loads(line)["ids"]))
PY
run "$HADAL" detokenize --tokenizer models/tiny --jsonl -f "$tap_dir/ids"
python3 - "$tap_dir/lines" "$tap_out" >"$tap_dir/why" 2>&1 <<'PY'
import json, sys
for a, b in zip(open(sys.argv[1]), open(sys.argv[2]), strict=True):
    assert json.loads(a)["prompt"] == json.loads(b), "ids do not spell the prompt"
PY
report 'the ids spell the prompt' "$(cat "$tap_dir/why")"

printf '[{"role": "user", "content": "a<think>"}]' >"$in"
run "$HADAL" encode "$in"
expect_text 'an array of messages, no thinking' '<｜begin▁of▁sentence｜><｜User｜>a<think><｜Assistant｜></think>'
run "$HADAL" encode --no-bos --effort none "$in"
report 'without the first token' "$(printf '<｜User｜>a<think><｜Assistant｜></think>' | cmp - "$tap_out" 2>&1)"
run "$HADAL" encode --thinking --effort max "$in"
expect_text 'effort, preview' 'Reasoning Effort: Absolute maximum'
run "$HADAL" encode --thinking --effort max --profile official "$in"
expect_text 'effort, official' 'Reasoning Effort: Beyond maximum'
run "$HADAL" encode --tokenizer models/tiny --ids "$in"
n_text=$(wc -w <"$tap_out")
run "$HADAL" encode --tokenizer models/tiny --ids --special "$in"
n_special=$(wc -w <"$tap_out")
report 'a forged token is text unless asked for' "$([ "$n_special" -lt "$n_text" ] || echo "$n_special ids with, $n_text without")"

printf '{"messages": [{"role": "user", "content": "a"}], "reasoning_effort": "high", "profile": "official"}\n' >"$in"
run "$HADAL" encode --jsonl "$in"
expect_text 'an effort asks for thinking' 'Reasoning Effort: Absolute maximum'
expect_text 'and opens it' '<｜Assistant｜><think>'
printf '{"messages": [{"role": "user", "content": "a"}], "reasoning_effort": "none", "thinking": true}\n' >"$in"
run "$HADAL" encode --jsonl "$in"
expect_text 'effort none is thinking off' '<｜Assistant｜></think>'
printf '\n' >"$in"
run "$HADAL" encode --jsonl "$in"
report 'an empty line is skipped' "$(cat "$tap_out" "$tap_err")"

refuse() { # refuse NAME LINE TEXT
    printf '%s\n' "$2" >"$in"
    run "$HADAL" encode --jsonl "$in"
    expect_error "$1" 1 "line 1: $3"
}
refuse 'bad JSON' '{"messages": [}' 'byte 14'
refuse 'no request' '3' 'must be an array of messages'
refuse 'no messages' '{}' 'messages: must be an array'
refuse 'bad role' '{"messages": [{"role": "x"}]}' 'messages[0].role: unknown role'
refuse 'bad thinking' '{"messages": [], "thinking": "yes"}' 'thinking: must be'
refuse 'bad effort' '{"messages": [], "reasoning_effort": "huge"}' 'reasoning_effort: must be'
refuse 'bad profile' '{"messages": [], "profile": "v5"}' 'profile: must be'
deep=$(printf '%3000s' '' | tr ' ' '[')
refuse 'deep nesting' "{\"messages\": [], \"tools\": $deep" 'byte 153: nested deeper than 128 levels'
refuse 'deep nesting in a field that is not read' "{\"messages\": [], \"x\": $deep" 'byte 149: nested deeper than 128 levels'

run "$HADAL" encode /nonexistent
expect_error 'no such file' 1 '/nonexistent'
run "$HADAL" encode --jsonl /nonexistent
expect_error 'no such file of lines' 1 '/nonexistent'
run "$HADAL" encode --tokenizer /nonexistent "$in"
expect_error 'no such tokenizer' 1 '/nonexistent'
run "$HADAL" encode
expect_error 'no file' 2 'FILE'
run "$HADAL" encode --ids "$in"
expect_error 'ids without a tokenizer' 2 '--tokenizer'
run "$HADAL" encode --profile v5 "$in"
expect_error 'unknown profile' 2 "'v5'"
run "$HADAL" encode --effort huge "$in"
expect_error 'unknown effort' 2 "'huge'"
run "$HADAL" encode --nothing "$in"
expect_error 'unknown option' 2 '--nothing'
run "$HADAL" encode --help
expect_text 'help' 'usage: hadal encode'
