#!/usr/bin/env python3
"""hadal serve with the embedded model: its life as a command, answers of a real model, TLS."""
import json
import signal
import ssl
import subprocess
import urllib.request

import server
from server import HADAL, Serve, check, equal, post, request, stream



def body(**more):
    return {"model": "tiny", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 12,
            "thinking": {"type": "disabled"}, "temperature": 0, **more}


def answers():
    with Serve() as s:
        server.wait_ready(s.port)
        whole = post(s.port, "/chat/completions", body())[2]
        chunks = [json.loads(d) for _, d in stream(s.port, "/chat/completions", body(stream=True))[:-1]]
        equal("".join(c["choices"][0]["delta"]["content"] for c in chunks), whole["choices"][0]["message"]["content"])
        equal(whole["model"], "tiny", "the model's name")
        message = post(s.port, "/v1/messages", body())[2]
        equal(message["content"][0]["text"], whole["choices"][0]["message"]["content"], "the same by another dialect")
        response = post(s.port, "/v1/responses", {"model": "tiny", "input": "Who are you?", "max_output_tokens": 12,
                                                  "reasoning": {"effort": "none"}, "temperature": 0})[2]
        equal(response["output"][0]["content"][0]["text"], whole["choices"][0]["message"]["content"], "and a third")
        seeds = [post(s.port, "/chat/completions", body(temperature=1, seed=7))[2]["choices"] for _ in range(2)]
        equal(seeds[0], seeds[1], "the same seed")
        text = request(s.port, "GET", "/metrics")[2]
        equal("vllm:time_to_first_token_seconds_count" in text, True, "metrics")


def ends(sig):
    with Serve() as s:
        server.wait_ready(s.port)
        s.process.send_signal(signal.SIGHUP)
        equal(request(s.port, "GET", "/health")[0], 200, "after SIGHUP")
        s.process.send_signal(sig)
        equal(s.process.wait(), 0, "exit code")


def tls():
    with Serve("--tls-cert", "tests/data/tls/cert.pem", "--tls-key", "tests/data/tls/key.pem") as s:
        equal(s.line.startswith("listening on https://"), True, s.line)
        context = ssl.create_default_context(cafile="tests/data/tls/cert.pem")
        while True:
            try:
                r = urllib.request.urlopen(f"https://127.0.0.1:{s.port}/health", context=context)
                break
            except urllib.error.HTTPError as e:
                equal(e.code, 503, "status while loading")
        equal(json.loads(r.read()), {"status": "ok"})
        data = json.dumps(body(stream=True)).encode()
        r = urllib.request.urlopen(f"https://127.0.0.1:{s.port}/chat/completions", data, context=context)
        equal(r.read().endswith(b"data: [DONE]\n\n"), True, "a stream over TLS")


def cors():
    with Serve("--cors", "*") as s:
        equal(request(s.port, "OPTIONS", "/chat/completions")[1]["Access-Control-Allow-Origin"], "*", "with --cors")
    with Serve() as s:
        equal(request(s.port, "OPTIONS", "/chat/completions")[1]["Access-Control-Allow-Origin"], None, "without")


def log():
    with Serve("--log") as s:
        server.wait_ready(s.port)
        post(s.port, "/chat/completions", body())
        s.process.terminate()
        lines = [json.loads(x) for x in s.process.stderr.read().decode().split("\n") if x.startswith("{")]
        line = [x for x in lines if x["method"] == "POST"][0]
        equal((line["api"], line["path"], line["status"], line["completion_tokens"], line["cache"]),
              ("chat", "/chat/completions", 200, 12, "no state of this user is kept"))
        equal([x["path"] for x in lines if x["method"] == "GET"][0], "/health", "other requests have a line too")
        equal("Who" in str(lines), False, "text of the prompt")


def refused(code, text, *options):
    out = subprocess.run([HADAL, "serve", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    equal((out.returncode, text in out.stderr.decode()), (code, True), out.stderr)


check("answers of the embedded model, by every dialect", answers)
check("SIGTERM", lambda: ends(signal.SIGTERM))
check("SIGINT", lambda: ends(signal.SIGINT))
check("TLS", tls)
check("CORS", cors)
check("a line a request", log)
check("a model that is not there", lambda: refused(1, "nowhere", "-m", "nowhere", "--port", "0"))
check("a certificate that is none", lambda: refused(1, "certificate", "--port", "0", "--tls-cert", "README.md", "--tls-key",
                                                   "README.md"))
check("a port that is none", lambda: refused(2, "--port", "--port", "70000"))
check("an option that is none", lambda: refused(2, "wrong option", "--nonsense"))
check("a certificate without a key", lambda: refused(2, "go together", "--tls-cert", "x"))
check("nowhere to listen", lambda: refused(2, "--unix", "--port", "none"))
server.done()
