#!/usr/bin/env python3
"""Prints man/hadal.1: the commands of `hadal help` with the text of each `hadal COMMAND --help`, between the fixed parts below.

    tools/man_page.py [./hadal] > man/hadal.1          (make man)

A help text is: usage lines, paragraphs, option lines (two spaces or more, then -x or --long), examples.
"""
import re
import subprocess
import sys

HEAD = r""".TH HADAL 1 "" "Hadal %s" "User Commands"
.SH NAME
hadal \- run DeepSeek-V4 models
.SH SYNOPSIS
.B hadal
.I COMMAND
.RI [ OPTIONS ]
.SH DESCRIPTION
.B hadal
loads checkpoints of the DeepSeek-V4 family in the official format and runs them on this machine, with the numbers of
DeepSeek's own code.
.PP
.B hadal help
lists the commands, and
.BI hadal " COMMAND " \-\-help
shows a command's options with examples.
.SH COMMANDS
"""

TAIL = r""".SH EXIT STATUS
.TP
.B 0
Done.
.TP
.B 1
A file, a model or the machine stood in the way; one sentence on standard error says what.
.TP
.B 2
Wrong usage.
.SH FILES
.TP
.I models/tiny
The model that comes with Hadal, in the official format.
.SH SEE ALSO
The numeric rules are in
.I docs/NUMERICS.md
of the source tree.
"""

OPTION = re.compile(r"^ {2,}(-\w\b.*|--[a-z].*)$")


def escape(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text.startswith((".", "'")) else text


def output(program, *args):
    return subprocess.run([program, *args], stdout=subprocess.PIPE, check=True).stdout.decode()


def commands(program):
    return re.findall(r"^  ([a-z][\w-]*) {2,}(.*)$", output(program, "help"), re.M)


def option_item(lines):
    """A line `  -m, --model MODEL   text` and its continuations to a .TP."""
    head, _, text = lines[0].strip().partition("  ")
    words = [text.strip()] + [line.strip() for line in lines[1:]]
    yield ".TP"
    yield ".B " + escape(head)
    yield from (escape(w) for w in words if w)


def verbatim(lines):
    yield ".PP"
    yield ".EX"
    yield from (escape(line) for line in lines)
    yield ".EE"


def blocks(text):
    """Runs of lines between blank lines, and between options."""
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        block = []
        for line in paragraph.split("\n"):
            if block and OPTION.match(line) or block and OPTION.match(block[0]) and not line.startswith("   "):
                yield block
                block = []
            block.append(line)
        yield block


def section(name, summary, text):
    yield ".SS hadal " + name
    yield escape(summary[0].upper() + summary[1:] + ".")
    for block in blocks(text):
        if block[0].startswith("hadal " + name + " - "):
            continue
        if OPTION.match(block[0]):
            yield from option_item(block)
        elif block[0].startswith(("usage:", " ", "example")) or any(line.startswith("  ") for line in block):
            yield from verbatim(block)
        else:
            yield ".PP"
            yield from (escape(line) for line in block)


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else "./hadal"
    version = re.search(r"^## ([\d.]+)", open("CHANGELOG.md", encoding="utf-8").read(), re.M).group(1)
    sys.stdout.write(HEAD % version)
    for name, summary in commands(program):
        print("\n".join(section(name, summary, output(program, name, "--help"))))
    sys.stdout.write(TAIL)


if __name__ == "__main__":
    main()
