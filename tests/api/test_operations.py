#!/usr/bin/env python3
"""Operating a server: price files, SIGHUP, limits of keys, memory, time and slow clients, the log, metrics, addresses."""
import json
import os
import shutil
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time

import server
from server import HADAL, Scripted, Serve, check, equal, metric, post, request, stream

MODEL = "deepseek-v4-flash"
OFF = {"thinking": {"type": "disabled"}}
SCRIPT = [{"when": "SLOW", "reply": "word " * 200, "delay_ms": 20}, {"when": "LONG", "reply": "word " * 60000},
          {"when": "", "reply": "Hello, world."}]


def body(text="x", **more):
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **OFF, **more}


def path(name):
    return os.path.join(server.work, name)


def hadal(*args):
    out = subprocess.run([HADAL, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return out.returncode, out.stdout.decode().strip(), out.stderr.decode().strip()


def add_key(ledger, name, *limits):
    code, key, why = hadal("keys", "add", name, "--ledger", ledger, *limits)
    equal(code, 0, why)
    return {"Authorization": "Bearer " + key}


def wait(what, condition):
    """Without a time limit: a loaded machine is slow, not wrong."""
    while not condition():
        pass


class Lines:
    """The lines of standard error as they come."""

    def __init__(self, process):
        self.lines = []
        threading.Thread(target=lambda: self.lines.extend(iter(process.stderr.readline, b"")), daemon=True).start()

    def wait_for(self, text):
        wait(text, lambda: any(text in line.decode() for line in self.lines))
        return [line.decode().strip() for line in self.lines if text in line.decode()][-1]


# ---------------------------------------------------------------- prices and SIGHUP


def write_prices(hit, miss, output):
    with open(path("prices.json"), "w", encoding="utf-8") as f:
        json.dump({"models": [{"names": ["*"], "prices": [{"from": "2020-01-01", "hit": hit, "miss": miss, "output": output}]}]}, f)


def cost_of(s):
    u = post(s.port, "/chat/completions", body("Who are you?", include_cost=True, max_tokens=6))[2]["usage"]
    return u["cost"], u["prompt_cache_hit_tokens"], u["prompt_cache_miss_tokens"], u["completion_tokens"]


def costs(s, hit, miss, output):
    cost, n_hit, n_miss, n_output = cost_of(s)
    wanted = (n_hit * hit + n_miss * miss + n_output * output) / 1e6
    equal(abs(cost - wanted) < 1e-12, True, f"cost {cost}, wanted {wanted}")


def hangup():
    write_prices(1, 2, 4)
    with Serve("--prices", path("prices.json"), "--ledger", path("hup.db"), "--any-model") as s:
        lines = Lines(s.process)
        server.wait_ready(s.port)
        key = add_key(path("hup.db"), "alice")
        ask = lambda: post(s.port, "/chat/completions", body("Who are you?", include_cost=True, max_tokens=6), key)[2]["usage"]
        u = ask()
        equal(u["cost"], (u["prompt_cache_hit_tokens"] + 2 * u["prompt_cache_miss_tokens"] + 4 * u["completion_tokens"]) / 1e6)
        write_prices(0, 0, 1000000)
        s.process.send_signal(signal.SIGHUP)
        equal("1 keys, " in lines.wait_for("SIGHUP"), True, str(lines.lines))
        equal(ask()["cost"], 6, "cost at the new price")
        with open(path("prices.json"), "w") as f:
            f.write('{"models": [{"names": ["*"], "prices": [{"from": "never"}]}]}')
        s.process.send_signal(signal.SIGHUP)
        line = lines.wait_for("stays in use")
        equal("models[0].prices[0].from must be a date" in line, True, line)
        equal(ask()["cost"], 6, "cost after a bad file")


def bad_prices_at_start():
    code, _, why = hadal("serve", "--port", "0", "--prices", "README.md")
    equal((code, "README.md: is no price table" in why), (1, True), why)


def usage_compare():
    ledger = path("hup.db")
    with sqlite3.connect(ledger) as db:
        db.execute("UPDATE usage SET hit = 250000, miss = 1000000, completion = 500000, started = 1791424800, ended = 1791428400"
                   " WHERE id = 1")  # Thursday, 8 October 2026, 02:00: peak hours
        db.execute("DELETE FROM usage WHERE id > 1")
    out = hadal("usage", "--ledger", ledger, "--compare", "--watts", "1000", "--kwh-price", "0.5", "--hardware-price", "35064",
                "--hardware-years", "2")[1]
    lines = {line[2:26].strip(): float(line[26:].split()[0]) for line in out.split("\n") if line.startswith("  ") and "$" in line
             and "hours" not in line}
    wanted = {"DeepSeek V4-Flash": 0.25 * 0.006 + 0.30 + 0.5 * 1.20, "DeepSeek V4-Pro": 0.25 * 0.044 + 1.32 + 0.5 * 3.96,
              "GPT-5.4": 1.25 * 2.5 + 0.5 * 15, "Claude Opus 4.7": 1.25 * 5 + 0.5 * 25, "this machine": 1 * (0.5 + 2)}
    equal({k: round(v, 4) for k, v in lines.items()}, {k: round(v, 4) for k, v in wanted.items()})
    write_prices(1, 1, 1)
    equal("GPT" in hadal("usage", "--ledger", ledger, "--compare", "--prices", path("prices.json"))[1], False, "its own lines only")
    equal(hadal("usage", "--ledger", ledger, "--hours", "1")[0], 2, "amounts without --compare")
    with open(path("official.json"), "w") as f:
        f.write(hadal("usage", "--print-prices")[1])
    equal(hadal("usage", "--ledger", ledger, "--compare", "--prices", path("official.json"))[1].split("\n")[3:],
          hadal("usage", "--ledger", ledger, "--compare")[1].split("\n")[3:], "the printed table")


def certificate():
    for name in ("cert", "key"):
        shutil.copy(f"tests/data/tls/{name}.pem", path(name + ".pem"))
    with Serve("--tls-cert", path("cert.pem"), "--tls-key", path("key.pem")) as s:
        lines = Lines(s.process)

        def connect():
            c = ssl.create_default_context()
            c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
            return c.wrap_socket(socket.create_connection(("127.0.0.1", s.port)))

        def answers(c):
            c.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            equal(c.recv(12), b"HTTP/1.1 200")

        def shown(name):
            with open(f"tests/data/tls/{name}.pem") as f:
                return ssl.PEM_cert_to_DER_cert(f.read())

        old = connect()
        equal(old.getpeercert(True), shown("cert"), "the first certificate")
        shutil.copy("README.md", path("cert.pem"))
        s.process.send_signal(signal.SIGHUP)
        equal("certificate or key is not usable; the old one stays in use" in lines.wait_for("SIGHUP"), True, str(lines.lines))
        c = connect()
        equal(c.getpeercert(True), shown("cert"), "after a bad file")
        c.close()
        for name in ("cert", "key"):
            shutil.copy(f"tests/data/tls/{name}2.pem", path(name + ".pem"))
        s.process.send_signal(signal.SIGHUP)
        lines.wait_for("a new certificate")
        new = connect()
        equal(new.getpeercert(True), shown("cert2"), "the second certificate")
        answers(new)
        answers(old)
        s.process.terminate()
        equal(s.process.wait(), 0, "exit code")


# ---------------------------------------------------------------- limits of keys


def key_limits():
    ledger = path("limits.db")
    one, slow, high, low = (add_key(ledger, *a) for a in (
        ("one", "--requests", "1"), ("slow", "--deadline", "0.3"), ("high", "--priority", "5"), ("low", "--weight", "0.5")))
    listing = hadal("keys", "list", "--ledger", ledger)[1]
    equal([line.split()[0] for line in listing.split("\n")[1:]], ["one", "slow", "high", "low"], "the list")
    with Scripted(SCRIPT, "--ledger", ledger, "--running", "1") as s:
        c = server.begin_request(s.port, "/chat/completions", body("SLOW"), one)
        wait("running", lambda: running(s, high) == 1)
        for where, status in (("/chat/completions", 429), ("/v1/messages", 529), ("/v1/responses", 429)):
            got, headers, _ = post(s.port, where, {**body(), "max_tokens": 9, "input": "x"}, one)
            equal((got, headers["Retry-After"]), (status, "1"), f"status of {where}")
        threads = [threading.Thread(target=post, args=(s.port, "/chat/completions", body(), k)) for k in (low, high)]
        for i, t in enumerate(threads):
            t.start()
            wait("waiting", lambda: metric(s.port, "vllm:num_requests_waiting", high) == i + 1)
        c.close()
        for t in threads:
            t.join()
        with sqlite3.connect(ledger) as db:
            order = [row[0] for row in db.execute("SELECT name FROM usage JOIN keys ON keys.id = key_id ORDER BY usage.id")]
        equal(order, ["one", "high", "low"], "the order in which requests ended")
        status, _, got = post(s.port, "/chat/completions", body("SLOW"), slow)
        equal((status, got["error"]["code"]), (504, "deadline_exceeded"), str(got))
        equal(post(s.port, "/v1/messages", {**body("SLOW"), "max_tokens": 99}, slow)[2]["error"]["type"], "timeout_error")
        equal(hadal("keys", "limit", "one", "--requests", "0", "--ledger", ledger)[0], 0)
        equal(post(s.port, "/chat/completions", body(), one)[0], 200, "after the limit was lifted")
        equal(metric(s.port, "hadal:refused_key_limit_total", one), 3)


def running(s, key=None):
    return metric(s.port, "vllm:num_requests_running", key)


def old_ledger():
    """A file of the first version has no columns for limits."""
    with sqlite3.connect(path("old.db")) as db:
        db.execute("CREATE TABLE keys (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, hint TEXT NOT NULL, hash BLOB NOT NULL,"
                   " limit_usd REAL NOT NULL, created INTEGER NOT NULL, revoked INTEGER NOT NULL DEFAULT 0)")
        db.execute("INSERT INTO keys VALUES (1, 'old', 'sk-...', x'00', 5, 0, 0)")
    equal(hadal("keys", "limit", "old", "--weight", "2", "--ledger", path("old.db"))[0], 0)
    equal(hadal("keys", "list", "--ledger", path("old.db"))[1].split("\n")[1].split()[4:8], ["5.00", "0", "0", "2"])


def wrong_keys():
    ledger = path("wrong.db")
    right = add_key(ledger, "alice")["Authorization"]
    with Scripted(SCRIPT, "--ledger", ledger) as s:
        seen = set()
        for key in ("", "x", "sk-wrong", right[7:-1], right[7:] + "x", right[7:15], "é" * 9000):
            status, headers, got = post(s.port, "/chat/completions", body(), {"Authorization": ("Bearer " + key).encode("utf-8")})
            seen.add((status, json.dumps(got), str(sorted(k for k in headers.keys())), headers["Content-Length"]))
        equal(len(seen), 1, f"different answers to wrong keys: {seen}")
        status, _, got = post(s.port, "/chat/completions", b"x" * 100, {"Authorization": "Bearer x"})
        equal(status, 401, "status of a body that is not looked at")


# ---------------------------------------------------------------- memory and time


def send_head(s, length, key=b""):
    c = socket.create_connection(("127.0.0.1", s.port))
    c.sendall(b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n" % (length, key))
    return c


def bodies_memory():
    with Scripted(SCRIPT, "--bodies-max", "10000") as s:
        holds = send_head(s, 9000)
        holds.sendall(b" " * 8000)
        wait("body", lambda: metric(s.port, "hadal:request_body_bytes") == 8000)
        for where, status in (("/chat/completions", 429), ("/v1/messages", 529)):
            got, headers, text = post(s.port, where, body("x" * 3000))
            equal((got, headers["Retry-After"], "memory" in text["error"]["message"]), (status, "1", True), f"{text}")
        chunked = socket.create_connection(("127.0.0.1", s.port))
        chunked.sendall(b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
                        b"bb8\r\n" + b"x" * 3000 + b"\r\n0\r\n\r\n")
        equal(chunked.recv(100).split()[1], b"429", "status, in chunks")
        holds.close()
        wait("free", lambda: metric(s.port, "hadal:request_body_bytes") == 0)
        equal(post(s.port, "/chat/completions", body("x" * 3000))[0], 200, "status afterwards")


def closed(c):
    try:
        return c.recv(1) == b""
    except ConnectionError:
        return True


def slow_senders():
    with Scripted(SCRIPT, "--head", "1", "--body", "1") as s:
        silent, half, later = (socket.create_connection(("127.0.0.1", s.port)) for _ in range(3))
        half.sendall(b"GET /health HTTP/1.1\r\nHos")
        later.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        while not later.recv(4096).endswith(b'{"status":"ok"}'):
            pass
        later.sendall(b"GET /health HTTP/1.1\r\nHost")
        body_half = send_head(s, 100)
        body_half.sendall(b"{")
        for name, c in (("nothing sent", silent), ("half of the headers", half), ("half of the second headers", later),
                        ("half of the body", body_half)):
            equal(closed(c), True, name)
        wait("gone", lambda: metric(s.port, "hadal:connections") == 1)


def left_at_once():
    """Data and the end of the connection arrive in one segment, in every state in which the server waits for the client."""
    with Scripted(SCRIPT, "--head", "120", "--body", "120") as s:
        stays = socket.create_connection(("127.0.0.1", s.port))
        stays.sendall(b"GET /health HTTP/1.1\r\nHost: x")
        whole = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        head = b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
        gone = []
        for data in (b"G", whole[:-2], whole, whole + b"GET /", head, head + b"{", b""):
            c = socket.create_connection(("127.0.0.1", s.port))
            c.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
            c.sendall(data)
            c.shutdown(socket.SHUT_WR)
            gone.append((data, c))
        wait("gone", lambda: time.sleep(0.1) or metric(s.port, "hadal:connections") <= 2)
        stays.sendall(b"\r\n\r\n")
        equal(b"200 OK" in stays.recv(4096), True, "the one that stays is answered")
        for data, c in gone:
            answer = b""
            while piece := c.recv(4096):
                answer += piece
            equal(b"200 OK" in answer, data.startswith(whole), f"answer {answer!r} to {data!r}")


def answered(s):
    """Whether anybody is, within a second."""
    c = socket.create_connection(("127.0.0.1", s.port), timeout=1)
    c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    try:
        return c.recv(4096) != b""
    except TimeoutError:
        return False


def one_frame():
    """A stream is chunked also where its end is known before its first byte is sent: the server's thread, whose log
    nobody reads, stands still while the engine writes the whole reply."""
    with Scripted(SCRIPT, "--running", "1", "--log", "1", stderr=subprocess.PIPE) as s:
        slow = server.begin_request(s.port, "/chat/completions", body("SLOW", stream=True, max_tokens=40))
        wait("running", lambda: time.sleep(0.05) or running(s) == 1)
        quick = server.begin_request(s.port, "/chat/completions", body(stream=True), {"Connection": "close"})
        wait("waiting", lambda: time.sleep(0.05) or metric(s.port, "vllm:num_requests_waiting") == 1)
        wait("the server stands still", lambda: not answered(s))
        time.sleep(1)
        Lines(s.process)
        answer = b""
        while piece := quick.recv(65536):
            answer += piece
        slow.close()
        equal((b"\r\nTransfer-Encoding: chunked\r\n" in answer, answer.endswith(b"\r\n0\r\n\r\n")), (True, True), "frame")


def ledger_rows(ledger):
    with sqlite3.connect(ledger) as db:
        return db.execute("SELECT finish, completion FROM usage ORDER BY id").fetchall()


def slow_reader(*options):
    """The client takes nothing: its request ends, the server closes the connection, and others go on."""
    ledger = path("%s.db" % options[0])
    key = add_key(ledger, "alice")
    with Scripted(SCRIPT, "--ledger", ledger, *options) as s:
        c = socket.socket()
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.connect(("127.0.0.1", s.port))
        data = json.dumps(body("LONG", stream=True, max_tokens=60000)).encode()
        c.sendall(b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: %s\r\nContent-Length: %d\r\n\r\n" %
                  (key["Authorization"].encode(), len(data)) + data)
        wait("row", lambda: len(ledger_rows(ledger)) == 1)
        equal(post(s.port, "/chat/completions", body(), key)[0], 200, "another request")
        wait("the connection is closed", lambda: metric(s.port, "hadal:connections", key) == 1)
        c.close()
        return ledger_rows(ledger)[0], metric(s.port, "hadal:dropped_slow_readers_total", key)


def far_behind():
    (finish, n), dropped = slow_reader("--stream-max", "100000")
    equal((finish, n < 59000, dropped), ("cancelled", True, 1), f"{n} tokens")


def takes_nothing():
    _, dropped = slow_reader("--write", "1", "--stream-max", "1000000000")
    equal(dropped, 0, "dropped by the size of the buffer")


def idle():
    with Serve("--keep-alive", "1") as s:
        c = socket.create_connection(("127.0.0.1", s.port))
        c.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        while c.recv(4096):
            pass
    equal("(default: 900)" in hadal("serve", "--help")[1], True, "the default of --keep-alive")


def large_body():
    """While a large prompt becomes tokens, a stream goes on."""
    with Scripted([{"when": "SLOW", "reply": "word " * 4000, "delay_ms": 2}, {"when": "", "reply": "Ok."}]) as s:
        c = server.begin_request(s.port, "/chat/completions", body("SLOW", stream=True, max_tokens=4000))
        while b"word" not in c.recv(4096):
            pass
        data = json.dumps({"content": "Some text, and 12 more. " * 400000}).encode()
        equal(len(data) > 9 << 20, True)
        uploaded, answered = threading.Event(), threading.Event()

        def ask():
            import http.client
            h = http.client.HTTPConnection("127.0.0.1", s.port)
            h.request("POST", "/tokenize", data)
            uploaded.set()
            h.getresponse().read()
            answered.set()

        t = threading.Thread(target=ask)
        t.start()
        uploaded.wait()
        n = 0
        while not answered.is_set():
            n += c.recv(65536).count(b"data: ")
        t.join()
        equal(n >= 20, True, f"{n} chunks came while a large body was read")
        c.close()


def no_wakeup_lost():
    """A stream takes about as long as a whole answer: at every end the loop is awake, it does not find out a second later."""
    def seconds(s, stream_it):
        start = time.monotonic()
        c = server.begin_request(s.port, "/chat/completions", body(stream=stream_it), {"Connection": "close"})
        while c.recv(65536):
            pass
        return time.monotonic() - start

    with Scripted(SCRIPT) as s:
        whole, streams = zip(*[(seconds(s, False), seconds(s, True)) for _ in range(21)])
        ratio = sorted(streams)[10] / sorted(whole)[10]
        equal(ratio < 20, True, f"ratio {ratio}: {streams}")
        late = sum(x > 20 * sorted(whole)[10] + 0.5 for x in streams)
        equal(late <= 5, True, f"{late} of 21 came late: {streams}")


def stops_soon():
    ledger = path("gone.db")
    key = add_key(ledger, "alice")
    with Scripted(SCRIPT, "--ledger", ledger) as s:
        c = server.begin_request(s.port, "/chat/completions", body("SLOW", stream=True), key)
        data = b""
        while data.count(b"data: ") < 5:
            data += c.recv(4096)
        c.close()
        wait("row", lambda: len(ledger_rows(ledger)) == 1)
        finish, n = ledger_rows(ledger)[0]
        equal((finish, n < 100), ("cancelled", True), f"{n} of 200 tokens")
        steps = metric(s.port, "hadal:steps_total", key)
        wait("no more", lambda: running(s, key) == 0)
        equal(metric(s.port, "hadal:steps_total", key), steps, "steps afterwards")


# ---------------------------------------------------------------- the log and metrics


def log_texts():
    for level, seen in (("1", False), ("2", True)):
        s = Scripted(SCRIPT, "--log", level, stderr=subprocess.PIPE)
        server.wait_ready(s.port)
        post(s.port, "/chat/completions", body("SECRET"))
        post(s.port, "/chat/completions", b'{"SECRET": }')
        post(s.port, "/chat/completions", {**body("SECRET"), "model": "SECRET"})
        post(s.port, "/SECRET", {})
        s.process.terminate()
        text = s.process.stderr.read().decode()
        lines = [json.loads(line) for line in text.strip().split("\n")]
        equal([line["status"] for line in lines if line["method"] == "POST"], [200, 400, 400, 404], "statuses")
        equal([line.get("refused") for line in lines if line["method"] == "POST"], [None, "no JSON", "bad request", "not found"])
        equal(("SECRET" in text, "Hello, world." in text), (seen, seen), "texts in the log")
        s.process.wait()


NAMES = """vllm:num_requests_running vllm:num_requests_waiting vllm:kv_cache_usage_perc vllm:num_preemptions_total
vllm:prompt_tokens_total vllm:generation_tokens_total vllm:prefix_cache_queries_total vllm:prefix_cache_hits_total
vllm:time_to_first_token_seconds_bucket vllm:time_per_output_token_seconds_bucket vllm:e2e_request_latency_seconds_count
vllm:request_queue_time_seconds_sum vllm:request_prefill_time_seconds_sum vllm:request_decode_time_seconds_sum
vllm:request_prompt_tokens_bucket vllm:request_generation_tokens_bucket vllm:request_success_total
hadal:cache_hit_tokens_total hadal:cache_lookups_total hadal:cost_dollars_total hadal:steps_total""".split()


def metrics():
    with Serve() as s:
        server.wait_ready(s.port)
        for _ in range(2):
            post(s.port, "/chat/completions", {**body("Who are you? " * 60, max_tokens=4), "model": "tiny"})
        text = request(s.port, "GET", "/metrics")[2]
        for name in NAMES:
            equal(any(line.startswith(name + "{") for line in text.split("\n")), True, name)
        types = [line.split()[2] for line in text.split("\n") if line.startswith("# TYPE")]
        equal(len(types), len(set(types)), "each name has one type")
        for line in text.strip().split("\n"):
            equal(line.startswith("#") or len(line.rsplit(" ", 1)) == 2 and float(line.rsplit(" ", 1)[1]) >= 0, True, line)
        hits = metric(s.port, "hadal:cache_hit_tokens_total")
        equal((hits > 100, hits), (True, metric(s.port, "vllm:prefix_cache_hits_total")), "hits by tier and in all")


def tiers():
    """What a server knows goes to disk when it ends, and the next one begins with it; each tier has its own count."""
    ask = {**body("Who are you? " * 60, max_tokens=4), "model": "tiny"}
    seen = []
    for _ in range(2):
        with Serve("--cache-dir", path("cache"), "--log", "--keep", "-1") as s:
            lines = Lines(s.process)
            server.wait_ready(s.port)
            u = post(s.port, "/chat/completions", ask)[2]["usage"]
            text = request(s.port, "GET", "/metrics")[2]
            disk = [float(x.split()[-1]) for x in text.split("\n") if x.startswith('hadal:cache_hit_tokens_total{tier="disk"')][0]
            seen.append((u["prompt_cache_hit_tokens"], disk))
            s.process.terminate()
            equal(s.process.wait(), 0, "exit code")
            line = json.loads(lines.wait_for('"POST"'))
            equal(("cache" in line, line["cached_tokens"]), (True, u["prompt_cache_hit_tokens"]), str(line))
    equal((seen[0], seen[1][0] >= 128, seen[1][1]), ((0, 0.0), True, float(seen[1][0])), f"hits and those of the disk: {seen}")


# ---------------------------------------------------------------- addresses


def ipv6():
    try:
        socket.socket(socket.AF_INET6).bind(("::1", 0))
    except OSError:
        return equal(hadal("serve", "--host", "::1", "--port", "0")[0], 1, "exit code on a machine without IPv6")
    with Scripted(SCRIPT, "--host", "::1") as s:
        c = socket.create_connection(("::1", s.port))
        c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        equal(c.recv(12), b"HTTP/1.1 200")
        c.close()


check("a price file, and SIGHUP", hangup)
check("a price file that is none", bad_prices_at_start)
check("what the same requests cost elsewhere", usage_compare)
check("a new certificate by SIGHUP", certificate)
check("requests, priority and deadline of keys", key_limits)
check("a ledger of the first version", old_ledger)
check("wrong keys are all answered alike", wrong_keys)
check("bodies in flight have a limit together", bodies_memory)
check("requests that do not go on", slow_senders)
check("clients that leave with their last byte", left_at_once)
check("one frame for all streams", one_frame)
check("a client that falls far behind", far_behind)
check("a client that takes nothing", takes_nothing)
check("an idle connection", idle)
check("a large body stops nobody's stream", large_body)
check("no wakeup is lost", no_wakeup_lost)
check("generation stops when the client goes", stops_soon)
check("texts are logged only when asked", log_texts)
check("metrics", metrics)
check("the cache goes to disk and comes back", tiers)
check("IPv6", ipv6)
server.done()
