#!/usr/bin/env python3
"""Style that a machine can check: whitespace, length of lines, functions and files, leftovers, paths of one machine."""
import re

import tree

# 120 columns is the rule for who writes; a word or two more is not worth a worse break.
LINE_MAX, LINE_MAX_TESTS, FUNCTION_MAX, FILE_MAX = 125, 140, 100, 900
TEXT = ["*.c", "*.h", "*.cu", "*.py", "*.sh", "*.md", "*.1", "*.in", "*.txt", "Makefile", ".ci/run", ".gitignore"]
# Zero-width, bidirectional and other invisible characters that hide what code does.
INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\u00a0\u00ad]|[\x00-\x08\x0b-\x1f\x7f]")
# Spelled in pieces so that this file does not match itself.
LEFTOVER = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
MACHINE_PATH = re.compile(r"(\.\./sha" r"red|/wo" r"rk/|/ho" r"me/\w|/ro" r"ot/|/tm" r"p/w)")


def is_data(path):
    return path.startswith(("tests/data/", "tests/fuzz/corpus/", "models/"))


def whitespace_problems(paths):
    for path in paths:
        text = tree.read(path)
        if text and not text.endswith("\n"):
            yield f"{path}: no newline at the end"
        if text.endswith("\n\n"):
            yield f"{path}: blank lines at the end"
        for i, line in enumerate(text.split("\n"), 1):
            if line != line.rstrip():
                yield f"{path}:{i}: trailing space"
            if "\t" in line and path != "Makefile" and not path.endswith(".tsv"):
                yield f"{path}:{i}: tab"
            if INVISIBLE.search(line.replace("\t", "")):
                yield f"{path}:{i}: invisible character"


def long_line_problems(paths):
    for path in paths:
        for i, line in enumerate(tree.read(path).split("\n"), 1):
            limit = LINE_MAX if path.startswith(("src/", "include/")) else LINE_MAX_TESTS
            if len(line) > limit:
                yield f"{path}:{i}: {len(line)} characters, at most {limit}"


def functions(text):
    """(first line, lines) of every function: K&R, so that it opens with '{' and ends with '}' in the first column."""
    start = None
    for i, line in enumerate(text.split("\n"), 1):
        if line == "{":
            start = i
        elif line == "}" and start is not None:
            yield start, i - start + 1
            start = None


def long_function_problems(paths):
    for path in paths:
        for line, length in functions(tree.read(path)):
            if length > FUNCTION_MAX:
                yield f"{path}:{line}: function of {length} lines, at most {FUNCTION_MAX}"


def long_file_problems(paths):
    for path in paths:
        n = tree.read(path).count("\n")
        if n > FILE_MAX:
            yield f"{path}: {n} lines, at most {FILE_MAX}"


def pattern_problems(paths, pattern, what):
    for path in paths:
        for i, line in enumerate(tree.read(path).split("\n"), 1):
            m = pattern.search(line)
            if m:
                yield f"{path}:{i}: {what} '{m.group()}'"


def self_test():
    if list(functions("int f(void)\n{\n    return 0;\n}\n")) != [(2, 3)]:
        yield "a function of three lines is not seen as such"
    if not LEFTOVER.search("/* TO" "DO later */") or not MACHINE_PATH.search("see ../sha" "red/spec"):
        yield "a leftover or a path of a machine is not seen"
    if not INVISIBLE.search("a\u200bb"):
        yield "a zero-width space is not seen"


text = [f for f in tree.files(*TEXT) if not is_data(f)]
code = [f for f in text if f.endswith((".c", ".h", ".cu"))]
tree.check("the style checks see what they must", self_test())
tree.check("whitespace: no tabs, trailing spaces, invisible characters; files end in one newline",
           whitespace_problems(text))
tree.check(f"lines of code have at most {LINE_MAX} characters, {LINE_MAX_TESTS} in tests and tools", long_line_problems(code))
tree.check(f"functions have at most {FUNCTION_MAX} lines", long_function_problems(code))
tree.check(f"files have at most {FILE_MAX} lines", long_file_problems([f for f in text if not f.endswith((".md", ".1"))]))
tree.check("nothing is left for later in the text", pattern_problems(text, LEFTOVER, "leftover"))
tree.check("nothing names a path of one machine", pattern_problems(text, MACHINE_PATH, "path"))
tree.done()
