#!/usr/bin/env python3
"""hadal run and hadal chat on a terminal: dim reasoning, Ctrl-C and Ctrl-D at every place, history, and no control
characters of a model's making."""
import os
import pty
import subprocess
import sys
import tempfile

HADAL = os.environ.get("HADAL", "./hadal")
n_checks = 0


def report(name, ok, shown):
    global n_checks
    n_checks += 1
    print("%s %d - %s" % ("ok" if ok else "not ok", n_checks, name))
    if not ok:
        print("# " + repr(shown)[-1500:])
    sys.stdout.flush()


class Terminal:
    def __init__(self, *args, state):
        env = dict(os.environ, XDG_STATE_HOME=state, TERM="xterm")
        master, slave = pty.openpty()
        self.process = subprocess.Popen([HADAL, *args], stdin=slave, stdout=slave, stderr=slave, env=env,
                                        preexec_fn=self.control(slave))
        os.close(slave)
        self.fd, self.shown = master, b""

    @staticmethod
    def control(slave):
        def run():
            import fcntl
            import signal
            import termios
            os.setsid()
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs inherit it ignored
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        return run

    def read(self):
        """One more piece of output; False at the end."""
        try:
            piece = os.read(self.fd, 65536)
        except OSError:
            return False
        self.shown += piece
        return piece != b""

    def until(self, text, start=0):
        while text not in self.shown[start:]:
            if not self.read():
                return False
        return True

    def type(self, keys):
        mark = len(self.shown)
        os.write(self.fd, keys)
        return mark

    def end(self):
        while self.read():
            pass
        os.close(self.fd)
        return self.process.wait()


with tempfile.TemporaryDirectory() as state:
    model = ("-m", "models/tiny", "--seed", "1", "--temperature", "100")
    t = Terminal("run", *model, "-p", "Hi", "--think", "high", "--max-tokens", "20", state=state)
    code = t.end()
    report("run: reasoning is dim", code == 0 and b"\033[2m" in t.shown and b"\033[0m" in t.shown, t.shown)
    plain = t.shown.replace(b"\033[2m", b"").replace(b"\033[0m", b"").replace(b"\033[K", b"")
    report("run: nothing else drives the terminal", b"\033" not in plain, t.shown)

    t = Terminal("run", *model, "-p", "Hi", "--max-tokens", "100000", state=state)
    while len(t.shown) < 400 and t.read():
        pass
    t.type(b"\x03")
    code = t.end()
    report("run: Ctrl-C ends with 130", code == 130, (code, t.shown))

    t = Terminal("chat", *model, "--max-tokens", "100000", state=state)
    t.until(b"> ")
    mark = t.type(b"half a line\x03")
    report("chat: Ctrl-C throws the line away", t.until(b"^C", mark) and t.until(b"> ", mark + 12), t.shown)
    mark = t.type(b"Hello\n")
    while len(t.shown) < mark + 400 and t.read():
        pass
    mark = t.type(b"\x03")
    report("chat: Ctrl-C ends the reply, not the program", t.until(b"\n> ", mark), t.shown)
    mark = t.type(b"/stats\n")
    report("chat: the conversation goes on", t.until(b"all 1 replies", mark), t.shown)
    t.until(b"> ", mark + 8)
    mark = t.type(b"\x1b[A")
    report("chat: the arrow brings the last line back", t.until(b"/stats", mark), t.shown)
    t.type(b"\x15\x04")
    report("chat: Ctrl-D ends", t.end() == 0, t.shown)
    path = os.path.join(state, "hadal", "history")
    report("chat: the history is one's own", os.stat(path).st_mode & 0o077 == 0 and b"Hello" in open(path, "rb").read(), path)

    t = Terminal("chat", *model, state=state)
    t.until(b"> ")
    mark = t.type(b"\x1b[A\x1b[A")
    report("chat: history lasts", t.until(b"Hello", mark), t.shown)
    t.type(b"\x15\x04")
    t.end()
