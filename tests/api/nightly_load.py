#!/usr/bin/env python3
"""nightly_load.py [SECONDS [CLIENTS]]: 256 clients for five minutes over the embedded model."""
import asyncio
import os
import subprocess
import sys
import time

import load
import server
from server import HADAL, Serve, check, equal, metric, request

SECONDS, CLIENTS = [int(x) for x in sys.argv[1:]] + [300, 256][len(sys.argv) - 1:]
BODY_MAX = 48 << 20
ledger = os.path.join(server.work, "load.db")
key = subprocess.run([HADAL, "keys", "add", "load", "--ledger", ledger], stdout=subprocess.PIPE).stdout.decode().strip()
auth = {"Authorization": "Bearer " + key}
sizes = []


async def watch(process):
    while True:
        sizes.append((time.monotonic(), load.memory_kb(process)))
        await asyncio.sleep(1)


def flat():
    """The mean of the last quarter is that of the second one: what grows for ever would show."""
    n = len(sizes) // 4
    second, last = (sum(kb for _, kb in part) / len(part) for part in (sizes[n:2 * n], sizes[-n:]))
    print(f"# memory in the four quarters, MB: "
          f"{[round(sum(kb for _, kb in sizes[i * n:(i + 1) * n]) / n / 1024, 1) for i in range(4)]}")
    equal(last < second * 1.05 + 5000, True, f"{second:.0f} kB, then {last:.0f} kB")


def none_left():
    """But the one that asks. The server may not have read yet that the one before was closed."""
    open_ones = []
    while len(open_ones) < 100 and open_ones[-1:] != [1]:
        open_ones.append(metric(s.port, "hadal:connections", auth))
        time.sleep(0.1)
    equal(open_ones[-1], 1, "open connections")


with Serve("--ledger", ledger, "--max-running", "256", "--max-waiting", "1024") as s:
    server.wait_ready(s.port)
    run = load.Load(s.port, key, 1, BODY_MAX)
    start = time.monotonic()
    run.run(CLIENTS, lambda n: time.monotonic() - start < SECONDS, lambda: watch(s.process))
    seconds = time.monotonic() - start
    waits = sorted(run.waits)
    print(f"# {CLIENTS} clients, {seconds:.0f} s: {dict(run.counts)}; {sum(run.whole.values())} tokens in whole answers; "
          f"first byte after {waits[len(waits) // 2]:.3f} s (median), {waits[-1]:.3f} s at most")
    while metric(s.port, "vllm:num_requests_running", auth) + metric(s.port, "vllm:num_requests_waiting", auth) > 0:
        time.sleep(0.1)
    check("every request is answered as it must be", run.no_problem)
    check("every client was served", lambda: run.nobody_starved(CLIENTS))
    check("memory is flat", flat)
    check("the server answers", lambda: equal(request(s.port, "GET", "/health")[0], 200))
    check("no connection is left", none_left)
    check("the ledger is what the clients counted", lambda: run.ledger_agrees(ledger))
    s.process.terminate()
    check("the server ends well", lambda: equal(s.process.wait(), 0))
server.done()
