#!/usr/bin/env python3
"""Floors: a file includes headers of its own floor and of lower ones, never upwards, never sideways between siblings;
and only src/bin reads the environment, prints for people and exits."""
import posixpath
import re

import tree

RANK = {"base": 0, "num": 1, "ops": 2, "text": 2, "comm": 2, "model": 3, "engine": 4, "serve": 5, "bin": 6}
SIBLINGS = {"ops/cpu", "ops/cuda", "ops/ascend"}
# The files of each dialect.
DIALECTS = {"deepseek": "chat", "completions": "completions", "anthropic": "messages", "anthropic_read": "messages",
            "openai_responses": "responses", "responses": "responses", "responses_read": "responses",
            "responses_write": "responses"}
BANNED = {
    "exit": "return a code", "_exit": "return a code", "getenv": "pass it from src/bin", "printf": "return data",
    "puts": "return data", "putchar": "return data", "perror": "fill struct err",
}
BANNED_EVERYWHERE = {
    "strcpy": "buf_str or snprintf", "strcat": "buf_str", "sprintf": "snprintf", "gets": "fgets", "strtok": "strcspn",
    "atoi": "strtol with a check", "atof": "strtod with a check", "system": "nothing", "alloca": "try_alloc",
}


def floor_of(path):
    """src/ops/cpu/x.c -> ("ops", "ops/cpu"); src/base/x.c -> ("base", "base")."""
    folder = posixpath.dirname(path)[len("src/"):]
    return folder.split("/")[0], folder


def include_problem(path, header):
    floor, folder = floor_of(path)
    if header == "hadal.h":
        return None
    if "/" not in header:
        return f"{path}: includes \"{header}\" without its floor"
    other = header.split("/")[0]
    other_folder = posixpath.dirname(header)
    if not tree.exists("src/" + header):
        return f"{path}: includes \"{header}\", which is not under src/"
    if other not in RANK:
        return f"{path}: includes \"{header}\" of an unknown floor"
    if RANK[other] > RANK[floor]:
        return f"{path}: {floor} includes \"{header}\" of a higher floor"
    if RANK[other] == RANK[floor] and other != floor:
        return f"{path}: {floor} includes \"{header}\" of a sibling floor"
    if folder in SIBLINGS and other_folder in SIBLINGS and folder != other_folder:
        return f"{path}: {folder} includes \"{header}\" of a sibling back end"
    name, other_name = (posixpath.splitext(posixpath.basename(p))[0] for p in (path, header))
    if name in DIALECTS and other_name in DIALECTS and DIALECTS[name] != DIALECTS[other_name]:
        return f"{path}: dialect {name} includes \"{header}\" of another dialect"
    return None


def include_problems(sources):
    for path in sources:
        if floor_of(path)[0] not in RANK:
            yield f"{path}: not on a known floor"
            continue
        for header in re.findall(r'^\s*#\s*include\s+"([^"]+)"', tree.read(path), re.M):
            problem = include_problem(path, header)
            if problem:
                yield problem


def code_only(text):
    """Comments and literals blanked, line numbers kept."""
    pattern = r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\''
    return re.sub(pattern, lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.S)


def call_problems(sources, banned):
    calls = re.compile(r"(?<![\w.>])(%s)\s*\(" % "|".join(banned))
    for path in sources:
        for i, line in enumerate(code_only(tree.read(path)).split("\n"), 1):
            for name in calls.findall(line):
                yield f"{path}:{i}: calls {name}; {banned[name]} instead"


def self_test():
    """The check must be able to fail."""
    bad = [("src/base/buf.c", "num/num.h"), ("src/text/chat.c", "model/config.h"), ("src/num/num.c", "num.h"),
           ("src/model/plan.c", "bin/bin.h")]
    for path, header in bad:
        if include_problem(path, header) is None:
            yield f"{path} including \"{header}\" was let through"
    if include_problem("src/model/plan.c", "base/base.h") is not None:
        yield "a lower floor was refused"


# mutant.c compiles to nothing but in the mutation tests' build, where the environment names the mutation.
EXEMPT = {"src/base/mutant.c"}

sources = tree.files("src/*.c", "src/*.h", "src/*.cu")
tree.check("the floor check refuses what it must", self_test())
tree.check("floors: includes go down only", include_problems(sources))
tree.check("floors: only src/bin exits, prints and reads the environment",
           call_problems([s for s in sources if not s.startswith("src/bin/") and s not in EXEMPT], BANNED))
tree.check("no call of an unsafe or unchecked function", call_problems(sources, BANNED_EVERYWHERE))
tree.done()
