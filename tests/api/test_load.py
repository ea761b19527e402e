#!/usr/bin/env python3
"""64 clients at once over the scripted model; nightly_load.py is the long one over the embedded model."""
import os
import subprocess

import load
import server
from server import HADAL, Scripted, check, equal, metric, request

ROUNDS, CLIENTS, BODY_MAX = 6, 64, 1 << 20
SCRIPT = [{"when": "", "reply": "word " * 50, "delay_ms": 1}]
ledger = os.path.join(server.work, "load.db")
key = subprocess.run([HADAL, "keys", "add", "load", "--ledger", ledger], stdout=subprocess.PIPE).stdout.decode().strip()
with Scripted(SCRIPT, "--ledger", ledger, "--running", "32", "--waiting", "1000", "--body-max", str(BODY_MAX)) as s:
    run = load.Load(s.port, key, 1, BODY_MAX)
    first = load.Load(s.port, key, 2, BODY_MAX)
    first.run(CLIENTS, lambda n: n < 2)
    before = load.memory_kb(s.process)
    run.run(CLIENTS, lambda n: n < ROUNDS)
    auth = {"Authorization": "Bearer " + key}
    while metric(s.port, "vllm:num_requests_running", auth) + metric(s.port, "vllm:num_requests_waiting", auth) > 0:
        pass
    after = load.memory_kb(s.process)
    check("every request is answered as it must be", run.no_problem)
    check("every client was served", lambda: run.nobody_starved(CLIENTS))
    check("memory is flat", lambda: equal(after < before + 30000, True, f"{before} kB, then {after} kB"))
    check("the server answers", lambda: equal(request(s.port, "GET", "/health")[0], 200))
    run.whole.update(first.whole)
    run.left |= first.left
    check("the ledger is what the clients counted", lambda: run.ledger_agrees(ledger))
server.done()
