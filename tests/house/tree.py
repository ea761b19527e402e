"""What the house checks share: the tracked files, and TAP lines."""
import subprocess
import sys

_n = 0
_failed = 0


def files(*patterns):
    """Tracked and new (not ignored) files that match the git patterns."""
    out = subprocess.run(["git", "-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
                         stdout=subprocess.PIPE, check=True).stdout.decode()
    return sorted({f for f in out.split("\0") if f and exists(f)})


def exists(path):
    try:
        open(path, "rb").close()
        return True
    except OSError:
        return False


def read(path):
    with open(path, encoding="utf-8", errors="surrogateescape") as f:
        return f.read()


def check(name, problems):
    """One TAP line; every problem is a sentence."""
    global _n, _failed
    _n += 1
    problems = list(problems)
    _failed += bool(problems)
    print(f"{'not ok' if problems else 'ok'} {_n} - {name}")
    for p in problems:
        print(f"# {p}")


def done():
    sys.exit(1 if _failed else 0)
