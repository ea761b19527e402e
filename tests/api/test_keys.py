#!/usr/bin/env python3
"""Keys, budgets and the ledger: what the ledger says is what clients received, whatever happens to the server."""
import os
import sqlite3
import subprocess
import threading

import server
from server import Scripted, check, equal, post, request

HADAL = os.environ.get("HADAL", "./hadal")
SCRIPT = [{"when": "SLOW", "reply": "word " * 60, "delay_ms": 2}, {"when": "", "reply": "Hello, world."}]
ledger = os.path.join(server.work, "ledger.db")


def hadal(*args):
    out = subprocess.run([HADAL, *args, "--ledger", ledger], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    return out.returncode, out.stdout.decode().strip(), out.stderr.decode().strip()


def body(text="x", **more):
    return {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": text}],
            "thinking": {"type": "disabled"}, **more}


def ask(s, key, **more):
    return post(s.port, "/chat/completions", body(**more), {"Authorization": "Bearer " + key})


def rows(query="SELECT * FROM usage"):
    with sqlite3.connect(ledger) as db:
        return db.execute(query).fetchall()


def stored():
    files = b"".join(open(ledger + end, "rb").read() for end in ("", "-wal") if os.path.exists(ledger + end))
    equal(alice.encode() in files, False, "the key is in the file")
    equal(os.stat(ledger).st_mode & 0o077, 0, "rights of others")


def refuses(s):
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": alice}, {"x-api-key": alice + "x"},
                    {"Authorization": "Bearer wrong", "x-api-key": alice}):
        for path, kind in (("/chat/completions", None), ("/v1/messages", "error"), ("/v1/responses", None)):
            status, _, got = post(s.port, path, body(), headers)
            equal((status, got.get("type"), got["error"]["type"]), (401, kind, "authentication_error"), f"{headers}")
            equal("sk-" in str(got) or "alice" in str(got), False, "a key in the answer")
    equal(request(s.port, "GET", "/metrics")[0], 401, "status of /metrics")
    equal(request(s.port, "GET", "/health")[0], 200, "status of /health")


def takes(s):
    before = len(rows())
    equal(ask(s, alice)[0], 200, "status")
    equal(post(s.port, "/v1/messages", {**body(), "max_tokens": 9}, {"x-api-key": alice})[0], 200, "status")
    got = rows("SELECT key_id, model, api, miss + hit, completion, finish FROM usage")[before:]
    equal([(r[0], r[1], r[2], r[4], r[5]) for r in got],
          [(1, "deepseek-v4-flash", "chat", 4, "stop"), (1, "deepseek-v4-flash", "messages", 4, "stop")])


def costs(s):
    u = ask(s, alice, include_cost=True)[2]["usage"]
    equal(0 < u["cost"] < 1e-4, True, f"cost {u['cost']}")
    equal(rows("SELECT cost FROM usage ORDER BY id DESC LIMIT 1")[0][0], u["cost"], "cost in the ledger")
    for path, more in (("/v1/messages", {"max_tokens": 9}), ("/v1/responses", {"input": "x"})):
        for asked in (True, False):
            u = post(s.port, path, {**body(), **more, "include_cost": asked}, {"Authorization": "Bearer " + alice})[2]["usage"]
            last = rows("SELECT cost FROM usage ORDER BY id DESC LIMIT 1")[0][0]
            equal(u.get("cost"), last if asked else None, f"cost of {path}")


def cache_reasons(s):
    """Why no more of a prompt came from the cache, in every dialect, whole and at the end of a stream."""
    for path, more in (("/chat/completions", {}), ("/v1/messages", {"max_tokens": 9}), ("/v1/responses", {"input": "x"})):
        for asked in (True, False):
            whole = {**body(), **more, "include_cache_reason": asked}
            u = post(s.port, path, whole, {"Authorization": "Bearer " + alice})[2]["usage"]
            equal(bool(u.get("cache_reason")), asked, f"cache reason of {path}: {u}")
    status, _, got = ask(s, alice, include_cache_reason="yes")
    equal(status, 422, "a reason asked for with a string")


def budget(s):
    key = hadal("keys", "add", "bob", "--limit", "0.000001")[1]
    equal(ask(s, key)[0], 200, "the first request")
    status, _, got = ask(s, key)
    equal((status, got["error"]["message"]), (402, "Insufficient Balance"))
    balance = request(s.port, "GET", "/user/balance", None, {"Authorization": "Bearer " + key})[2]
    equal((balance["is_available"], balance["balance_infos"][0]["total_balance"]), (False, "0.00"))
    equal(hadal("keys", "limit", "bob", "5")[0], 0)
    equal(ask(s, key)[0], 200, "with a larger limit")
    balance = request(s.port, "GET", "/user/balance", None, {"Authorization": "Bearer " + key})[2]
    equal((balance["is_available"], balance["balance_infos"][0]["currency"]), (True, "USD"))


def revoked(s):
    key = hadal("keys", "add", "carol")[1]
    equal(ask(s, key)[0], 200)
    equal(hadal("keys", "revoke", "carol")[0], 0)
    equal(ask(s, key)[0], 401, "after revoking")
    equal("revoked" in hadal("keys", "list")[1], True, "the list says so")


def commands():
    equal(hadal("keys", "add", "alice")[0], 1, "a second alice")
    equal("no key named" in hadal("keys", "revoke", "nobody")[2], True)
    equal(hadal("keys", "dance")[0], 1)
    for by in ("key", "day", "model", "user"):
        code, out, _ = hadal("usage", "--by", by)
        equal((code, sum(int(line.split()[1]) for line in out.split("\n")[1:])), (0, len(rows())), f"by {by}")
    equal(hadal("usage", "--by", "moon")[0], 1)
    out = hadal("usage", "--compare", "--hours", "1", "--watts", "1000", "--kwh-price", "0.5")[1]
    equal(all(x in out for x in ("V4-Flash", "V4-Pro", "GPT-5.4", "Opus 4.7", "this machine")), True, out)


def killed():
    """Kills the server again and again; every whole answer that a client has is in the ledger, exactly once."""
    seen, lock = [], threading.Lock()

    def client(s):
        try:
            while True:
                got_status, headers, _ = ask(s, alice, text="SLOW")
                if got_status == 200:
                    with lock:
                        seen.append(headers["x-request-id"])
        except Exception:
            pass  # the server died

    for _ in range(5):
        s = Scripted(SCRIPT, "--ledger", ledger)
        server.wait_ready(s.port)
        threads = [threading.Thread(target=client, args=(s,)) for _ in range(8)]
        for t in threads:
            t.start()
        count = len(seen)
        while len(seen) < count + 20:
            pass
        s.process.kill()
        s.process.wait()
        for t in threads:
            t.join()
    have = [r[0] for r in rows("SELECT request FROM usage")]
    equal(len(have), len(set(have)), "rows and requests")
    equal(set(seen) - set(have), set(), "answers that are not in the ledger")


def not_loopback():
    out = subprocess.run([HADAL, "serve", "--host", "0.0.0.0", "--port", "0"], stdout=subprocess.PIPE,
                         stderr=subprocess.PIPE)
    equal((out.returncode, b"not a loopback address" in out.stderr), (1, True), out.stderr)


alice = hadal("keys", "add", "alice")[1]
with Scripted(SCRIPT, "--ledger", ledger) as s0:
    s = s0
    check("only hashes are stored", stored)
    check("wrong keys", lambda: refuses(s))
    check("right keys, and their rows", lambda: takes(s))
    check("the cost of an answer", lambda: costs(s))
    check("the reason of a miss", lambda: cache_reasons(s))
    check("a budget", lambda: budget(s))
    check("a revoked key", lambda: revoked(s))
    check("the commands", commands)
check("killed again and again", killed)
check("other addresses than loopback need keys", not_loopback)
server.done()
