"""For the tests of the API: the scripted server as a context, raw HTTP, server-sent events, TAP lines, and the Python of
an environment that has the openai and anthropic clients."""
import gzip
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile

B = os.environ.get("B", "build")
HADAL = os.environ.get("HADAL", "./hadal")
CLIENTS = ["openai==3.57.0", "anthropic==2.13.0", "jsonschema==4.25.1"]
work = tempfile.mkdtemp()
count = 0
failed = 0


def report(name, problem):
    """problem: None or "" when all is well."""
    global count, failed
    count += 1
    failed += bool(problem)
    print(("not ok" if problem else "ok"), count, "-", name)
    if problem:
        print("\n".join("# " + line for line in str(problem).split("\n")[:40]))
    sys.stdout.flush()


def check(name, test):
    """Runs test(); an exception is the problem."""
    try:
        report(name, test())
    except Exception as e:  # the name of the test says what was tried
        report(name, f"{type(e).__name__}: {e} (line {e.__traceback__.tb_next.tb_lineno if e.__traceback__.tb_next else '?'})")


def done():
    shutil.rmtree(work, ignore_errors=True)
    sys.exit(1 if failed else 0)


def equal(got, wanted, what="value"):
    if got != wanted:
        raise AssertionError(f"{what} is {got!r}, not {wanted!r}")


def official_tokenizer():
    path = os.path.join(work, "tokenizer.json")
    if not os.path.exists(path):
        with gzip.open("tests/data/tokenizer/tokenizer.json.gz") as f, open(path, "wb") as to:
            shutil.copyfileobj(f, to)
    return path


class Scripted:
    """with Scripted([{"when": ..., "reply": ...}], "--context", "100") as s: s.port is where it listens."""

    def __init__(self, script, *options, tokenizer="models/tiny", stderr=None):
        path = os.path.join(work, "script%d.json" % id(self))
        with open(path, "w", encoding="utf-8") as f:
            json.dump(script, f)
        self.process = subprocess.Popen([f"{B}/tests/api/scripted_server", "--tokenizer", tokenizer, "--script", path,
                                         *options], stdout=subprocess.PIPE, stderr=stderr)
        self.host = options[options.index("--host") + 1] if "--host" in options else "127.0.0.1"
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the scripted server did not start")
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        wait_ready(self.port, self.host)
        return self

    def stop(self):
        self.process.terminate()
        return self.process.wait()

    def __exit__(self, *_):
        code = self.stop()
        if code != 0:
            report("the scripted server ends well", f"exit code {code}")


class Serve:
    """with Serve("--log") as s: hadal serve with the embedded model; s.line is what it said first."""

    def __init__(self, *options):
        self.process = subprocess.Popen([HADAL, "serve", "-m", "models/tiny", "--port", "0", *options],
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.line = self.process.stdout.readline().decode().strip()
        self.port = int(self.line.rsplit(":", 1)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def wait_ready(port, host="127.0.0.1"):
    while request(port, "GET", "/health", host=host)[0] == 503:
        pass


# Folders of this machine and files of the server, which no answer may name.
HOST_PATHS = re.compile("|".join(map(re.escape, [os.getcwd(), tempfile.gettempdir() + "/", "models/tiny", ".safetensors",
                                                 "src/serve", "src/engine", os.path.expanduser("~") + "/"])))


def no_host_paths(status, text):
    if status >= 400 and HOST_PATHS.search(text):
        raise AssertionError(f"an error names a path of the host: {text!r}")


def request(port, method, path, body=None, headers=None, host="127.0.0.1"):
    """(status, headers, body as JSON or text); no error may name a path of the host."""
    c = http.client.HTTPConnection(host, port)
    data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
    c.request(method, path, data, headers or {})
    r = c.getresponse()
    text = r.read().decode()
    c.close()
    no_host_paths(r.status, text)
    try:
        return r.status, r.headers, json.loads(text)
    except json.JSONDecodeError:
        return r.status, r.headers, text


def post(port, path, body, headers=None):
    return request(port, "POST", path, body, headers)


def stream(port, path, body, headers=None):
    """The frames of a stream: [(event or None, data text)]."""
    status, _, text = request(port, "POST", path, body, headers)
    equal(status, 200, f"status (body {text!r})")
    frames = []
    for frame in text.split("\n\n"):
        lines = [line for line in frame.split("\n") if line and not line.startswith(":")]
        event = [line[7:] for line in lines if line.startswith("event: ")]
        data = [line[6:] for line in lines if line.startswith("data: ")]
        if data:
            frames.append((event[0] if event else None, "\n".join(data)))
    return frames


def begin_request(port, path, body, headers=None):
    """A socket on which a request was sent and nothing read."""
    data = json.dumps(body).encode()
    s = socket.create_connection(("127.0.0.1", port))
    more = "".join(f"{k}: {v}\r\n" for k, v in (headers or {}).items()).encode()
    s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (path.encode(), more, len(data)) + data)
    return s


def metric(port, name, headers=None):
    text = request(port, "GET", "/metrics", None, headers)[2]
    return sum(float(line.split()[-1]) for line in text.split("\n") if line.startswith(name + "{") or line.startswith(name + " "))


def use_clients():
    """Runs this script again in an environment with the client libraries, made when it is not there."""
    folder = os.path.join(B, "api-clients")
    python = os.path.join(folder, "bin", "python")
    mark = os.path.join(folder, "installed")
    if os.path.realpath(sys.prefix) == os.path.realpath(folder):
        return
    if not os.path.exists(mark) or open(mark).read() != " ".join(CLIENTS):
        out = subprocess.run(f"{sys.executable} -m venv {folder} && {python} -m pip install -q --disable-pip-version-check "
                             + " ".join(CLIENTS), shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if out.returncode != 0:
            report("the clients can be installed from PyPI: " + ", ".join(CLIENTS), out.stdout.decode()[-2000:])
            done()
        with open(mark, "w") as f:
            f.write(" ".join(CLIENTS))
    os.execv(python, [python, "-B"] + sys.argv)
