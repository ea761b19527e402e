#!/usr/bin/env python3
"""What the embedded model can do, asked through the program, greedy: each group of skills.json has a number of cases that
must be right (`at_least`). The model card holds the measured rates."""
import itertools
import json
import os
import subprocess
import sys
import tempfile

HADAL = os.environ.get("HADAL", "./hadal")
HERE = os.path.dirname(os.path.abspath(__file__))


def ask(prompt, group, tools_file):
    command = [HADAL, "run", "-m", "models/tiny", "--temperature", "0", "--max-tokens", "200", "--json", "-p", prompt,
               "--think", group["think"]]
    if group.get("with_tools"):
        command += ["--tools", tools_file]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        return {"content": "", "finish_reason": "exit code %d: %s" % (done.returncode, done.stderr.decode())}
    return json.loads(done.stdout)


def prompt_of(case, group):
    """A case is a prompt, or [sentences before, the sentence that matters, sentences after, the question] in filler."""
    if "filler" not in group:
        return case
    before, fact, after, question = case
    filler = itertools.cycle(group["filler"])
    return " ".join([next(filler) for _ in range(before)] + [fact] + [next(filler) for _ in range(after)] + [question])


def calls_of(reply):
    calls = [c["function"] for c in reply.get("tool_calls", [])]
    return [{c["name"]: json.loads(c["arguments"])} for c in calls]


def is_right(reply, wanted, group):
    calls = calls_of(reply)
    if reply["finish_reason"] != ("tool_calls" if calls else "stop"):
        return False
    if group.get("reasons") and not reply.get("reasoning_content"):
        return False
    if isinstance(wanted, str):
        return not calls and wanted in reply["content"]
    if group.get("with_tools"):
        return calls == [wanted]
    try:
        return json.loads(reply["content"]) == wanted
    except ValueError:
        return False


def main():
    spec = json.load(open(os.path.join(HERE, "skills.json")))
    with tempfile.NamedTemporaryFile("w", suffix=".json") as tools:
        json.dump(spec["tools"], tools)
        tools.flush()
        for i, group in enumerate(spec["groups"], 1):
            wrong = []
            for case, wanted in group["cases"]:
                prompt = prompt_of(case, group)
                reply = ask(prompt, group, tools.name)
                if not is_right(reply, wanted, group):
                    wrong.append((case, wanted, reply["content"], calls_of(reply), reply["finish_reason"]))
            n, right = len(group["cases"]), len(group["cases"]) - len(wrong)
            ok = right >= group["at_least"] > 0
            print("%s %d - %s: %d of %d" % ("ok" if ok else "not ok", i, group["name"], right, n))
            for prompt, wanted, content, calls, finish in wrong:
                print("# %r: wanted %r, got %r %r (%s)" % (prompt, wanted, content[:200], calls, finish))
            sys.stdout.flush()


main()
