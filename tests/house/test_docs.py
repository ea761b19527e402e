#!/usr/bin/env python3
"""The documents agree with the code: the walk of ARCHITECTURE.md, files it names, README commands, the man page."""
import os
import re
import subprocess

import tree


def defines(path, name):
    """Whether the C file defines the function (K&R: its head starts in the first column, '{' on a line of its own)."""
    return re.search(r"^\w[^;{}]*\b%s\([^;{}]*\)\n\{" % re.escape(name), tree.read(path), re.M) is not None


def walk_rows(text):
    """([files], [functions]) of every row `| N | path, path | `f`, `g` | ... |` of the walk."""
    for m in re.finditer(r"^\| *\d+ *\|([^|]*)\|([^|]*)\|", text, re.M):
        yield re.findall(r"[\w/]+\.c\b", m.group(1)), re.findall(r"`(\w+)`", m.group(2))


def walk_problems(text):
    rows = list(walk_rows(text))
    if len(rows) < 10:
        yield f"docs/ARCHITECTURE.md: the walk has {len(rows)} rows"
    for paths, names in rows:
        missing = [p for p in paths if not tree.exists("src/" + p)]
        yield from (f"docs/ARCHITECTURE.md: src/{p} does not exist" for p in missing)
        if missing:
            continue
        if not paths or not names:
            yield f"docs/ARCHITECTURE.md: a row of the walk without file or function: {paths} {names}"
        for name in names:
            if not any(defines("src/" + p, name) for p in paths):
                yield f"docs/ARCHITECTURE.md: {' and '.join(paths)} do not define {name}"
        for p in paths:
            if not any(defines("src/" + p, name) for name in names):
                yield f"docs/ARCHITECTURE.md: src/{p} defines none of {', '.join(names)}"


def self_test():
    """The check of the walk must be able to fail."""
    bad = "| 1 | base/buf.c | `buf_free`, `no_such_function` | x |\n"
    if not any("no_such_function" in p for p in walk_problems(bad)):
        yield "a function that does not exist is let through"
    if not any("no/such.c" in p for p in walk_problems("| 1 | no/such.c | `f` | x |\n")):
        yield "a file that does not exist is let through"


def named_file_problems(doc):
    """Every path in backticks that looks like one of ours exists."""
    for path in set(re.findall(r"`((?:src|tests|tools|docs|include|models|man)/[\w./-]+)`", tree.read(doc))):
        if not re.search("NAME|SUITE", path) and not tree.files(path):
            yield f"{doc}: {path} does not exist"


def undescribed_sources(text):
    """Every source file of the library and the program has its place in the picture of the tree."""
    for path in tree.files("src/*.c", "src/*.h", "src/*.cu"):
        name = path.rsplit("/", 1)[1]
        if not re.search(r"(?<![\w.])%s(?![\w])" % re.escape(name), text):
            yield f"docs/ARCHITECTURE.md: {path} is not in the tree"


def make_target_problems(doc):
    makefile = tree.read("Makefile")
    for target in set(re.findall(r"(?:^|`|\$ )make ([a-z][\w-]*)", tree.read(doc), re.M)):
        stem = "suite-%" if target.startswith("suite-") else target
        if not re.search(r"^(?:[\w-]+ )*%s(?: [\w-]+)*:(?!=)" % re.escape(stem), makefile, re.M):
            yield f"{doc}: the Makefile has no target {target}"


def help_problems():
    """Every target that stands for itself is in `make help`, and help names no other."""
    makefile = tree.read("Makefile")
    inner = {"all", "programs", "setup-test", "help"}
    phony = {t for line in re.findall(r"^\.PHONY: (.*)$", makefile, re.M) for t in line.split()} - inner
    named = {t for line in re.findall(r"@echo 'make ([a-z][a-z, -]*?)  ", makefile) for t in line.split(", ")}
    for target in sorted(phony - named):
        yield f"make help does not name {target}"
    for target in sorted(named - phony):
        yield f"make help names {target}, which is no target"


def commands():
    return re.findall(r'^\s*\{"([\w-]+)", "', tree.read("src/bin/main.c"), re.M)


def stale_page_problems():
    """`make man` writes the page from the help texts of the program."""
    out = subprocess.run(["tools/man_page.py", os.environ.get("HADAL", "./hadal")], stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT)
    if out.stdout.decode() != tree.read("man/hadal.1"):
        yield "man/hadal.1 is not what the help texts say: run `make man`"


def page_text():
    """What a reader of the page sees, in one long line a paragraph, hyphens plain."""
    out = subprocess.run(["man", "--warnings=w", "--no-hyphenation", "--no-justification", "-l", "man/hadal.1"],
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                         env={"PATH": "/usr/bin:/bin", "MANWIDTH": "200", "LC_ALL": "C.UTF-8", "MANROFFOPT": "-c"})
    text = re.sub(".\b", "", out.stdout.decode()).replace("\u2010", "-").replace("\u2212", "-")
    return text, [f"man: {line}" for line in out.stderr.decode().splitlines()]


def command_problems():
    names = set(commands())
    described = set(re.findall(r"^\.SS hadal ([a-z][\w-]*)$", tree.read("man/hadal.1"), re.M))
    if not names:
        yield "src/bin/main.c: no commands found"
    for name in sorted(names - described):
        yield f"man/hadal.1: command {name} is missing"
    for name in sorted(described - names):
        yield f"man/hadal.1: command {name} does not exist"


def option_problems(page):
    """Every long option of src/bin is in the page (getopt tables hold {"name", required_argument|no_argument...)."""
    for path in tree.files("src/bin/*.c"):
        for name in re.findall(r'\{"([a-z][\w-]*)", (?:no|required|optional)_argument', tree.read(path)):
            if not re.search(r"(?<![\w-])--%s(?![\w-])" % re.escape(name), page):
                yield f"man/hadal.1: option --{name} of {path} is missing"


docs = tree.files("README.md", "docs/*.md")
architecture = tree.read("docs/ARCHITECTURE.md")
page, warnings = page_text()
tree.check("the check of the walk refuses what it must", self_test())
tree.check("the walk names functions that exist", walk_problems(architecture))
tree.check("every source file is in the picture of the tree", undescribed_sources(architecture))
tree.check("documents name files that exist", (p for d in docs for p in named_file_problems(d)))
tree.check("documents name make targets that exist", (p for d in docs for p in make_target_problems(d)))
tree.check("make help names every target", help_problems())
tree.check("the man page renders without warnings", warnings)
tree.check("the man page has every command and no other", command_problems())
tree.check("the man page has every option", option_problems(page))
tree.check("the man page is what the help texts say", stale_page_problems())
tree.done()
