"""Many clients at once, good and bad ones, and what must hold afterwards: the server lives, its memory is flat, nobody starved,
and the ledger is what the clients counted. Run by test_load.py (small) and nightly_load.py."""
import asyncio
import collections
import json
import random
import re
import sqlite3
import time

import server

DIALECTS = {
    "chat": ("/chat/completions", lambda text, n: {"model": "deepseek-chat", "messages": [{"role": "user", "content": text}],
                                                   "max_tokens": n}, b"data: [DONE]",
             r'"usage":\{"prompt_tokens":(\d+),"completion_tokens":(\d+)'),
    "messages": ("/v1/messages", lambda text, n: {"model": "claude-x", "messages": [{"role": "user", "content": text}], "max_tokens": n,
                                                  "thinking": {"type": "disabled"}}, b"event: message_stop",
                 r'"input_tokens":(\d+),"cache_creation_input_tokens":0,"cache_read_input_tokens":(\d+),"output_tokens":(\d+)'),
    "responses": ("/v1/responses", lambda text, n: {"model": "deepseek-chat", "input": text, "max_output_tokens": n,
                                                    "reasoning": {"effort": "none"}}, b'"usage":{"input_tokens"',
                  r'"usage":\{"input_tokens":(\d+),.*?"output_tokens":(\d+)'),
}


def output_tokens(dialect, text):
    found = re.findall(DIALECTS[dialect][3], text)
    return int(found[-1][-1])


class Load:
    def __init__(self, port, key, seed, body_max):
        self.port, self.key, self.body_max = port, key, body_max
        self.random = random.Random(seed)
        self.whole = {}            # request id: output tokens, of answers that a client has to their end
        self.left = set()          # request ids of answers that a client left
        self.counts = collections.Counter()
        self.served = collections.Counter()  # whole answers by client
        self.waits = []            # seconds from a request to its first byte
        self.problems = []

    def head(self, path, length, key=None):
        return (f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key or self.key}\r\nContent-Length: {length}\r\n"
                "Connection: close\r\n\r\n").encode()

    async def send(self, data):
        r, w = await asyncio.open_connection("127.0.0.1", self.port)
        w.write(data)
        await w.drain()
        return r, w

    async def head_of(self, r):
        head = (await r.readuntil(b"\r\n\r\n")).decode()
        return int(head.split()[1]), re.search(r"\r\nx-request-id: (\S+)", head)

    async def answer(self, client, kind):
        """Streams (fast, slow, left half-way) and whole answers of every dialect."""
        dialect = self.random.choice(sorted(DIALECTS))
        path, body, end, _ = DIALECTS[dialect]
        stream = kind != "whole"
        ask = body("Please count. " * self.random.randint(1, 12), self.random.randint(4, 60))
        data = json.dumps({**ask, "stream": stream}).encode()
        start = time.monotonic()
        r, w = await self.send(self.head(path, len(data)) + data)
        status, request = await self.head_of(r)
        self.waits.append(time.monotonic() - start)
        if status in (429, 529):
            w.close()
            return "busy"
        if status != 200:
            raise AssertionError(f"{dialect}: status {status}: {(await r.read())[:300]}")
        if kind == "leave":
            await r.read(self.random.randint(1, 3000))
            w.close()
            self.left.add(request[1])
            return kind
        text = b""
        while piece := await r.read(512 if kind == "slow" else 65536):
            text += piece
            if kind == "slow":
                await asyncio.sleep(self.random.random() * 0.1)
        w.close()
        if stream and (end not in text or not text.endswith(b"\r\n0\r\n\r\n")):
            raise AssertionError(f"{dialect}: the stream has no end: {text[-300:]}")
        text = re.sub(rb"\r\n[0-9a-f]+\r\n", b"", text).decode(errors="replace")  # chunk lengths
        self.whole[request[1]] = output_tokens(dialect, text)
        self.served[client] += 1
        return kind

    async def refused(self, kind):
        """What must be answered with an error, or with nothing."""
        wanted, key = 400, None
        if kind == "bad JSON":
            data = b'{"model": "deepseek-chat", "messages": [' + bytes(self.random.choices(range(256), k=40))
        elif kind == "deep":
            data, wanted = b'{"model": "x", "tools": ' + b"[" * 3000 + b"]" * 3000 + b"}", 400
        elif kind == "wrong key":
            data, wanted, key = b"{}", 401, "sk-" + str(self.random.random())
        else:
            data, wanted = b"", 413
        length = len(data) if kind != "large" else self.body_max + 1
        r, w = await self.send(self.head("/chat/completions", length, key) + data)
        status, _ = await self.head_of(r)
        body = (await r.read()).decode()
        server.no_host_paths(status, body)
        w.close()
        if status != wanted and status != 429:
            raise AssertionError(f"{kind}: status {status}, not {wanted}: {body[:200]}")
        return kind

    async def partial(self):
        data = self.head("/chat/completions", 1000) + b"{" * 10
        r, w = await self.send(data[:self.random.randint(1, len(data))])
        await asyncio.sleep(self.random.random() * 0.1)
        w.close()
        return "partial"

    async def client(self, i, goes_on):
        kinds = ["fast"] * 5 + ["whole"] * 2 + ["slow", "leave", "leave", "bad JSON", "deep", "large", "partial", "wrong key"]
        n = 0
        while goes_on(n):
            kind = self.random.choice(kinds) if n > 0 else "fast"
            n += 1
            try:
                if kind == "partial":
                    done = await self.partial()
                elif kind in ("fast", "whole", "slow", "leave"):
                    done = await self.answer(i, kind)
                else:
                    done = await self.refused(kind)
                self.counts[done] += 1
                if done == "busy":
                    await asyncio.sleep(0.2)
            except Exception as e:  # told at the end, with what was tried
                self.problems.append(f"client {i}, {kind}: {type(e).__name__}: {e}")

    def run(self, n_clients, goes_on, watch=None):
        async def all_of_them():
            watcher = asyncio.create_task(watch()) if watch else None
            await asyncio.gather(*(self.client(i, goes_on) for i in range(n_clients)))
            if watcher:
                watcher.cancel()
        asyncio.run(all_of_them())

    # ------------------------------------------------------------ afterwards

    def no_problem(self):
        return "\n".join(self.problems[:20])

    def nobody_starved(self, n_clients):
        hungry = [i for i in range(n_clients) if self.served[i] == 0]
        return f"clients without one whole answer: {hungry}" if hungry else None

    def ledger_agrees(self, path):
        """Every answer a client has whole is a row with its tokens; every other row is of an answer that was left."""
        with sqlite3.connect(path) as db:
            rows = {r[0]: r[1:] for r in db.execute("SELECT request, completion, finish FROM usage")}
            n = db.execute("SELECT COUNT(*) FROM usage").fetchone()[0]
        server.equal(n, len(rows), "rows and requests")
        wrong = [(k, v, rows.get(k)) for k, v in self.whole.items() if k not in rows or rows[k][0] != v]
        server.equal(wrong, [], "answers that are not in the ledger as they were")
        server.equal(len(set(rows) - set(self.whole) - self.left), 0, "number of rows of answers that nobody asked for")
        server.equal(len(self.left - set(rows)), 0, "number of answers that were left and have no row")
        server.equal(sum(r[0] for k, r in rows.items() if k in self.whole), sum(self.whole.values()), "output tokens")


def memory_kb(process):
    with open(f"/proc/{process.pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])
