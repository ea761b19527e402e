#!/usr/bin/env python3
"""What every dialect says when the server cannot answer: the context is full, the queue is full, the model is loading, the
server is ending, a client or the end of patience cut an answer off. Status, Retry-After and body of each."""
import http.client
import json
import threading

import server
from server import Scripted, check, equal, post

SCRIPT = [{"when": "SLOW", "reply": "word " * 400, "delay_ms": 20}, {"when": "", "reply": "Ok."}]
USER = [{"role": "user", "content": "TEXT"}]
OFF = {"thinking": {"type": "disabled"}}
DIALECTS = {
    "/chat/completions": {"model": "deepseek-chat", "messages": USER},
    "/beta/completions": {"model": "deepseek-chat", "prompt": "TEXT"},
    "/v1/responses": {"model": "deepseek-chat", "input": "TEXT"},
    "/v1/messages": {"model": "deepseek-chat", "messages": USER, "max_tokens": 3000, **OFF},
}


def body(path, text, **more):
    return {**json.loads(json.dumps(DIALECTS[path]).replace("TEXT", text)), **more}


def kind(path, got):
    """What a client tells errors apart by: Anthropic's type, otherwise the code."""
    if path == "/v1/messages":
        equal(list(got), ["type", "error", "request_id"], "keys of the body")
        equal(got["type"], "error")
        return got["error"]["type"]
    equal((list(got), list(got["error"])), (["error"], ["message", "type", "param", "code"]), "keys of the body")
    return got["error"]["code"]


def refusal(path, answer, status, code, text, retry):
    got_status, headers, got = answer
    equal((got_status, kind(path, got)), (status, code), f"status and kind of {got}")
    equal((text in got["error"]["message"], headers["Retry-After"]), (True, retry), f"text and Retry-After of {got}")


def overflow():
    with Scripted(SCRIPT, "--context", "60") as s:
        for path in DIALECTS:
            code = {"/v1/messages": "invalid_request_error", "/v1/responses": "context_length_exceeded"}.get(
                path, "invalid_request_error")
            text = "prompt is too long: " if path == "/v1/messages" else "maximum context length is 60 tokens"
            refusal(path, post(s.port, path, body(path, "word " * 100)), 400, code, text, None)
            equal(post(s.port, path, body(path, "word"))[0], 200, "a prompt that fits")


def busy():
    with Scripted(SCRIPT, "--running", "1", "--waiting", "1") as s:
        slow = body("/chat/completions", "SLOW", stream=True)
        sockets = [server.begin_request(s.port, "/chat/completions", slow)]
        while server.metric(s.port, "vllm:num_requests_running") < 1:
            pass
        sockets.append(server.begin_request(s.port, "/chat/completions", slow))
        while server.metric(s.port, "vllm:num_requests_waiting") < 1:
            pass
        for path in DIALECTS:
            status, code = (529, "overloaded_error") if path == "/v1/messages" else (429, "rate_limit_exceeded")
            for stream in (False, True):
                refusal(path, post(s.port, path, body(path, "x", stream=stream)), status, code, "busy", "1")
        for c in sockets:
            c.close()


def busy_for():
    """Retry-After is what the queue is worth: requests of a second each, one at a time, two before the next one."""
    script = [{"when": "", "reply": "word " * 50, "delay_ms": 30}]
    with Scripted(script, "--running", "1", "--waiting", "1") as s:
        equal(post(s.port, "/chat/completions", body("/chat/completions", "x", max_tokens=50))[0], 200, "one request")
        n, total = (server.metric(s.port, "vllm:e2e_request_latency_seconds" + end) for end in ("_count", "_sum"))
        equal((n, total > 1.4), (1, True), f"{total} seconds")
        slow = body("/chat/completions", "x", stream=True)
        sockets = [server.begin_request(s.port, "/chat/completions", slow)]
        while server.metric(s.port, "vllm:num_requests_running") < 1:  # else both would wait, and the second be refused
            pass
        sockets.append(server.begin_request(s.port, "/chat/completions", slow))
        while server.metric(s.port, "vllm:num_requests_waiting") < 1:
            pass
        _, headers, _ = post(s.port, "/chat/completions", body("/chat/completions", "x"))
        equal(headers["Retry-After"], str(int(2 * total + 0.5)), f"seconds, when one takes {total}")
        for c in sockets:
            c.close()


def loading():
    with_loading = Scripted(SCRIPT, "--loading", "3000")
    while server.request(with_loading.port, "GET", "/health")[2].get("progress") != 0.25:
        pass
    for path in DIALECTS:
        status, code = (529, "overloaded_error") if path == "/v1/messages" else (503, "model_loading")
        refusal(path, post(with_loading.port, path, body(path, "x")), status, code, "loading: 25.0 %", "10")
    server.wait_ready(with_loading.port)
    equal(with_loading.stop(), 0, "exit code")


def ending():
    """A connection that was open before the end still gets an answer."""
    s = Scripted(SCRIPT, "--grace", "60")
    server.wait_ready(s.port)
    kept = {path: http.client.HTTPConnection("127.0.0.1", s.port) for path in DIALECTS}
    for path, c in kept.items():
        c.request("POST", path, json.dumps(body(path, "x")))
        equal(c.getresponse().read()[:1], b"{", "an answer before the end")
    running = server.begin_request(s.port, "/chat/completions", body("/chat/completions", "SLOW", stream=True))
    running.recv(100)
    s.process.terminate()
    while server.socket.socket().connect_ex(("127.0.0.1", s.port)) == 0:
        pass  # until it listens no more
    for path, c in kept.items():
        status, code = (529, "overloaded_error") if path == "/v1/messages" else (503, "shutting_down")
        c.request("POST", path, json.dumps(body(path, "x")))
        r = c.getresponse()
        refusal(path, (r.status, r.headers, json.loads(r.read())), status, code, "shutting down", "1")
        c.close()
    running.close()
    equal(s.process.wait(), 0, "exit code")


def cut_off():
    s = Scripted(SCRIPT, "--grace", "0")
    server.wait_ready(s.port)
    got = {}

    def one(path, stream):
        got[path, stream] = post(s.port, path, body(path, "SLOW", stream=stream))
    threads = [threading.Thread(target=one, args=(path, stream)) for path in DIALECTS for stream in (False, True)]
    for t in threads:
        t.start()
    while server.metric(s.port, "vllm:num_requests_running") < len(threads):
        pass
    equal(s.stop(), 0, "exit code")
    for t in threads:
        t.join()
    for path in ("/chat/completions", "/beta/completions"):
        equal(got[path, False][2]["choices"][0]["finish_reason"], "aborted", path)
        equal('"finish_reason":"aborted"' in got[path, True][2], True, f"the stream of {path}")
    refusal("/v1/messages", got["/v1/messages", False], 529, "overloaded_error", "shutting down", "1")
    refusal("/v1/responses", got["/v1/responses", False], 503, "shutting_down", "shutting down", "1")
    equal("event: error" in got["/v1/messages", True][2] and "message_stop" not in got["/v1/messages", True][2], True, "messages")
    equal("event: response.failed" in got["/v1/responses", True][2] and "response.completed" not in
          got["/v1/responses", True][2], True, "responses")


def gone():
    with Scripted(SCRIPT) as s:
        for path in DIALECTS:
            for stream in (False, True):
                c = server.begin_request(s.port, path, body(path, "SLOW", stream=stream))
                while server.metric(s.port, "vllm:num_requests_running") < 1:
                    pass
                c.close()
                while server.metric(s.port, "vllm:num_requests_running") > 0:
                    pass


for name, test in (("the context is full", overflow), ("the queue is full", busy), ("the model is loading", loading),
                   ("the server is ending", ending), ("answers that the end cuts off", cut_off),
                   ("clients that go away", gone)):
    check(f"every dialect: {name}", test)
check("Retry-After of a full queue", busy_for)
server.done()
