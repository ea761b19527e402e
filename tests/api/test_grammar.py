#!/usr/bin/env python3
"""Random words of grammars against the jsonschema package, an independent validator: everything that a grammar lets through
is valid, what cannot be enforced is refused by name, and given texts are accepted or not."""
import json
import random
import subprocess
import sys

import server

server.use_clients()

import jsonschema
from server import B, check, equal

FORMATS = jsonschema.FormatChecker(("date", "uuid", "ipv4", "email"))
WORDS = B + "/tests/api/grammar_words"
PERSON = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 130},
                                           "tags": {"type": "array", "items": {"enum": ["a", "b", "\"c\\"]}, "maxItems": 3}},
          "required": ["name", "age"], "additionalProperties": False}
TREE = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {
    "value": {"type": "number"}, "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["value"],
    "additionalProperties": False}}}
SCHEMAS = {
    "anything": True, "any object": {"type": "object"}, "an object of tables": PERSON, "a recursive schema": TREE,
    "optional properties": {"type": "object", "properties": {k: {"type": "boolean"} for k in "abcd"}, "required": ["b"]},
    "other keys": {"type": "object", "properties": {"ab": {"type": "integer"}, "abc": {"type": "null"}, "x": {"const": 1},
                                                    "é": {"type": "integer"}, "": {"type": "integer"}},
                   "additionalProperties": {"type": "boolean"}},
    "required without properties": {"type": "object", "required": ["a", "b"], "additionalProperties": {"type": "string"}},
    "bounds of integers": {"type": "array", "items": {"type": "integer", "minimum": -17, "exclusiveMaximum": 1204}},
    "negative integers": {"type": "array", "items": {"type": "integer", "maximum": -98}},
    "bounds of numbers": {"type": "array", "items": {"type": "number", "exclusiveMinimum": -3, "maximum": 12}},
    "positive numbers": {"type": "array", "items": {"type": "number", "exclusiveMinimum": 0}},
    "negative numbers": {"type": "array", "items": {"type": "number", "minimum": -5, "exclusiveMaximum": -4}},
    "numbers": {"type": "array", "items": {"type": "number"}},
    "counts": {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 5}, "minItems": 2, "maxItems": 4},
    "tuples": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "null"}], "items": False, "minItems": 1},
    "tuples with more": {"type": "array", "prefixItems": [{"type": "integer"}], "items": {"type": "boolean"}, "minItems": 3},
    "empty arrays": {"type": "array", "maxItems": 0},
    "types": {"type": ["integer", "null", "object"], "properties": {"a": {"type": "null"}}, "additionalProperties": False},
    "constants": {"enum": [None, True, 1, 1.5, "a\nb", {"k": [1, {"l": "é"}]}, [], -0.25, "a", "ab"]},
    "formats": {"type": "object", "properties": {f.replace("-", ""): {"type": "string", "format": f} for f in (
        "date", "time", "date-time", "uuid", "ipv4", "email", "hostname")}, "required": ["date", "datetime", "uuid", "ipv4"],
        "additionalProperties": False},
    "one of two by a constant": {"oneOf": [
        {"type": "object", "properties": {"kind": {"const": k}, "x": {"type": t}}, "required": ["kind", "x"],
         "additionalProperties": False} for k, t in (("a", "integer"), ("b", "string"))]},
    "one of two types": {"oneOf": [{"type": "integer"}, {"type": "string", "maxLength": 3}]},
    "a list in a reference": {"type": "object", "properties": {"l": {"$ref": "#/properties/m"}, "m": {
        "type": "array", "items": {"$ref": "#"}, "maxItems": 2}}, "additionalProperties": False},
    "all of one": {"allOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": {"type": "integer", "maximum": 9}}, "description": "d"},
    "a pointer with signs": {"$ref": "#/$defs/a~1b~0c", "$defs": {"a/b~c": {"const": "found"}}},
    "deep": {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "array", "items": {
        "type": "object", "properties": {"z": {"type": "array", "items": TREE["$defs"]["node"]["properties"]["value"]}}}}}},
        "required": ["a"]},
}
PATTERNS = [r"^[a-z]{2,4}-\d+$", r"^(foo|ba[rz])?\.x$", r"^[^0-9\"]*$", r"^\w+@\w+\.(com|org)$", r"é{3}", r"^a.b\\c\"$",
            r"^\u0041[\x41-\x43]?$", r"^(a|b(c|d)*)+$", r"x", r"^\s?$", r"^(?:[A-Z][a-z]*?){1,3}|x$"]
SCHEMAS.update({f"the pattern {p}": {"type": "string", "pattern": p} for p in PATTERNS[:-1]})
REFUSED = [
    ({"type": "string", "pattern": PATTERNS[-1]}, "anchor"), ({"not": {}}, "'not'"),
    ({"not": {"type": "null"}}, "'not'"), ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
    ({"type": "object", "patternProperties": {"a": {}}}, "'patternProperties'"), ({"multipleOf": 3}, "'multipleOf'"),
    ({"type": "object", "properties": {"a": {"b": 1, "if": {"type": "null"}}}}, "at '#/properties/a'"),
    ({"type": "string", "pattern": "(?=a)"}, "look-around"), ({"type": "string", "pattern": "a\\b"}, "pattern"),
    ({"type": "string", "pattern": "(("}, "pattern"), ({"type": "string", "pattern": "[b-a]"}, "pattern"),
    ({"type": "string", "pattern": "^a|b$"}, "anchor"), ({"type": "string", "pattern": "a{2000}"}, "pattern"),
    ({"type": "string", "format": "color"}, "'color'"), ({"$ref": "http://x/y"}, "outside"), ({"$ref": "#/a"}, "nothing"),
    ({"$ref": "#"}, "itself"), ({"type": "text"}, "type"), ({"enum": []}, "enum"), ({"anyOf": []}, "array of schemas"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "same value"), ({"allOf": [{}, {}]}, "allOf"),
    ({"anyOf": [{"type": "null"}], "properties": {}}, "beside 'anyOf'"), (False, "allows none"), ("x", "schema"),
    ({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "nested"),
    ({"type": "number", "minimum": 0.5}, "bound"), ({"type": "integer", "minimum": 5, "maximum": 4}, "none"),
    ({"type": "array", "minItems": 10**9}, "minItems"), ({"required": "a"}, "required"),
]
TEXTS = [
    (PERSON, '{"name": "é\\n\\u00e9", "age": 42}', True), (PERSON, '{"age": 42, "name": "x"}', False),
    (PERSON, '{"name":"x","age":131}', False), (PERSON, '{\n    "name": "x",\n    "age": 0,\n    "tags": []\n}', True),
    (PERSON, '{"name": "x", "age": 042}', False), (PERSON, '{"name": "x",     "age": 42}', False),
    (PERSON, '{"name": "x\ny", "age": 42}', False), (PERSON, '{"name": "\\ud800", "age": 42}', False),
    (TREE, '{"value": -1.5e3, "next": {"value": 0}}', True), (TREE, '{"value": 01}', False), (TREE, '{"value": 1} ', False),
    (True, "[" * 60 + "1" + "]" * 60, True), (True, "[" * 200 + "1" + "]" * 200, False),
    (SCHEMAS["other keys"], '{"ab": 1, "abcd": true, "a": false}', True),
    (SCHEMAS["other keys"], '{"ab": true}', False), (SCHEMAS["other keys"], '{"y": 1}', False),
]


def ask(specs, words=10, seed=1):
    out = subprocess.run([WORDS, "--tokenizer", "models/tiny", "--seed", str(seed), "--words", str(words)],
                         input="\n".join(json.dumps(s) for s in specs) + "\n", stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         encoding="utf-8")
    equal((out.returncode, out.stderr), (0, ""), "exit code and errors")
    return [json.loads(line) for line in out.stdout.splitlines()]


def validate(schema, word):
    def no_constant(text):
        raise ValueError(text)
    value = json.loads(word, parse_constant=no_constant)
    validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
    for error in validator.iter_errors(value):
        raise AssertionError(f"{word!r} is not valid: {error.message}")


def judge(schema, answer):
    equal(answer.get("error"), None, f"the refusal of {json.dumps(schema)}")
    whole = [w for w in answer["words"] if w is not None]
    for word in whole:
        validate(schema, word)
    return len(whole)


def known():
    answers = ask([{"schema": s} for s in SCHEMAS.values()], words=10)
    for (name, schema), answer in zip(SCHEMAS.items(), answers):
        check(f"words of {name}", lambda: None if judge(schema, answer) > 0 or "pattern" in name else "no word came to an end")


def refusals():
    answers = ask([{"schema": s} for s, _ in REFUSED], words=1)
    for (schema, text), answer in zip(REFUSED, answers):
        name = json.dumps(schema)[:70]
        check(f"refused: {name}", lambda: None if text in answer.get("error", "") else f"{text!r} not in {answer!r}")


def texts():
    answers = ask([{"schema": s, "texts": [t]} for s, t, _ in TEXTS], words=0)
    for (schema, text, wanted), answer in zip(TEXTS, answers):
        check(f"{'accepted' if wanted else 'not accepted'}: {text[:60]!r}", lambda: equal(answer["accepted"], [wanted]))


def random_schema(r, depth=0):
    kind = r.choice(["integer", "number", "string", "boolean", "null", "enum", "ref"] + ["object", "array", "any"] * (depth < 3) * 2)
    if kind == "enum":
        return {"enum": r.sample([None, True, 0, -3, 2.5, "", "a", "ä\"", [1], {"a": 1}], r.randint(1, 5))}
    if kind == "ref":
        return {"$ref": r.choice(["#", "#/$defs/d"])} if depth > 0 else {"type": "object"}
    if kind == "any":
        return {"anyOf": [random_schema(r, depth + 1) for _ in range(r.randint(1, 3))]}
    s = {"type": kind}
    if kind == "object":
        names = r.sample(["a", "b", "aa", "ab", "é", "x y", "\"", "long_name"], r.randint(0, 4))
        s["properties"] = {n: random_schema(r, depth + 1) for n in names}
        s["required"] = [n for n in names if r.random() < 0.5]
        if r.random() < 0.6:
            s["additionalProperties"] = r.choice([False, True, {"type": "boolean"}])
    elif kind == "array":
        s["items"] = random_schema(r, depth + 1)
        s["minItems"], s["maxItems"] = r.randint(0, 2), r.randint(2, 5)
    elif kind == "string" and r.random() < 0.5:
        s["minLength"], s["maxLength"] = r.randint(0, 3), r.randint(3, 6)
    elif kind in ("integer", "number") and r.random() < 0.6:
        lo = r.randint(-2000, 2000)
        s[r.choice(["minimum", "exclusiveMinimum"])] = lo
        if r.random() < 0.5:
            s[r.choice(["maximum", "exclusiveMaximum"])] = lo + r.randint(2, 3000)
    return s


def random_schemas(seed):
    r = random.Random(seed)
    schemas = [{**random_schema(r), "$defs": {"d": random_schema(r, 2)}} for _ in range(100)]
    answers = ask([{"schema": s} for s in schemas], words=4, seed=seed)
    taken = 0
    for schema, answer in zip(schemas, answers):
        if "error" in answer and any(t in answer["error"] for t in ("nested", "beside", "itself")):
            continue
        taken += judge(schema, answer) > 0
    equal(taken > 40, True, f"{taken} of {len(schemas)} schemas had words (seed {seed})")


seed = int(sys.argv[1]) if len(sys.argv) > 1 else 7
known()
refusals()
texts()
check(f"words of random schemas, seed {seed}", lambda: random_schemas(seed))
server.done()
