#!/usr/bin/env python3
"""Chat completions and the server around them, over raw HTTP: shapes, refusals, clients that leave, the end."""
import json
import os
import socket
import threading

import server
from server import Scripted, check, equal, post, request, stream

CALLS = ('\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n'
         '<｜DSML｜parameter name="location" string="true">深圳</｜DSML｜parameter>\n'
         '<｜DSML｜parameter name="days" string="false">2</｜DSML｜parameter>\n'
         '</｜DSML｜invoke>\n</｜DSML｜tool_calls>')
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
SCRIPT = [
    {"when": "PLAIN", "reply": "Hello, world."},
    {"when": "THINK", "reply": "Let me see.</think>It is 4."},
    {"when": "CALL", "reply": "I look.</think>Wait。" + CALLS},
    {"when": "BROKEN", "reply": "Ah.</think>Wait。" + CALLS.replace("｜DSML｜parameter name=\"days\"", "｜DSML｜nonsense")},
    {"when": "SLOW", "reply": "word " * 200, "delay_ms": 20},
    {"when": "", "reply": "Ok."},
]


def body(text, **more):
    return {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": text}], **more}


OFF = {"thinking": {"type": "disabled"}}


def whole_plain(s):
    status, headers, got = post(s.port, "/v1/chat/completions", body("PLAIN", **OFF))
    equal(status, 200)
    equal(list(got), ["id", "object", "created", "model", "choices", "usage", "system_fingerprint"], "keys")
    equal(got["choices"][0], {"index": 0, "message": {"role": "assistant", "content": "Hello, world."}, "logprobs": None,
                              "finish_reason": "stop"}, "choice")
    equal("completion_tokens_details" in got["usage"], False, "details without thinking")
    equal(headers["Content-Type"], "application/json", "content type")


def whole_thinking(s):
    got = post(s.port, "/chat/completions", body("THINK"))[2]
    equal(got["choices"][0]["message"], {"role": "assistant", "content": "It is 4.", "reasoning_content": "Let me see."})
    u = got["usage"]
    equal(list(u), ["prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details",
                    "completion_tokens_details", "prompt_cache_hit_tokens", "prompt_cache_miss_tokens"], "usage keys")
    reasoning, answer = (post(s.port, "/tokenize", {"content": t})[2]["count"] for t in ("Let me see.", "It is 4."))
    equal(u["completion_tokens_details"]["reasoning_tokens"], reasoning, "reasoning tokens")
    equal(u["completion_tokens"], reasoning + 1 + answer, "completion tokens, </think> in, end token out")


def whole_call(s):
    got = post(s.port, "/chat/completions", body("CALL", tools=[TOOL]))[2]["choices"][0]
    message, call = got["message"], got["message"]["tool_calls"][0]
    equal(list(message), ["role", "content", "reasoning_content", "tool_calls"], "keys of the message")
    equal(message["content"], "Wait。", "content")
    equal(got["finish_reason"], "tool_calls", "finish_reason")
    equal(list(call), ["index", "id", "type", "function"], "keys of the call")
    equal(call["function"], {"name": "get_weather", "arguments": '{"location": "深圳", "days": 2}'}, "function")
    head, number, rest = call["id"].split("_")
    equal((head, number, len(rest), rest[20:].isdigit()), ("call", "00", 24, True), "form of the id")


def deltas(s, text, **more):
    frames = stream(s.port, "/chat/completions", body(text, stream=True, **more))
    equal(frames[-1][1], "[DONE]", "the last frame")
    return [json.loads(f[1]) for f in frames[:-1]]


def stream_call(s):
    chunks = deltas(s, "CALL", tools=[TOOL], stream_options={"include_usage": True})
    keys = ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    for c in chunks:
        equal(list(c), keys, "keys")
        equal(list(c["choices"][0]), ["index", "delta", "logprobs", "finish_reason"], "keys of the choice")
    equal([c["usage"] for c in chunks[:-1]], [None] * (len(chunks) - 1), "usage before the end")
    d = [c["choices"][0]["delta"] for c in chunks]
    equal(d[0], {"role": "assistant", "content": None, "reasoning_content": ""}, "the first delta")
    calls = [x["tool_calls"] for x in d if "tool_calls" in x]
    equal(list(calls[0][0]), ["index", "id", "type", "function"], "the head of a call")
    equal(calls[0][0]["function"], {"name": "get_weather", "arguments": ""}, "the head's function")
    equal([list(c[0]) for c in calls[1:]], [["index", "function"]] * (len(calls) - 1), "pieces of arguments")
    equal("".join(c[0]["function"]["arguments"] for c in calls), '{"location": "深圳", "days": 2}', "arguments")
    texts = [x for x in d[1:] if "tool_calls" not in x]
    equal(all((x["content"] is None) != (x["reasoning_content"] is None) for x in texts), True, "one of the two is null")
    equal("".join(x["content"] or "" for x in texts), "Wait。", "content")
    equal((d[-1], chunks[-1]["choices"][0]["finish_reason"]), ({"content": "", "reasoning_content": None}, "tool_calls"), "end")


def stream_plain(s):
    chunks = deltas(s, "PLAIN", **OFF)
    equal(chunks[0]["choices"][0]["delta"], {"role": "assistant", "content": ""}, "the first delta")
    equal(["usage" in c for c in chunks], [False] * (len(chunks) - 1) + [True], "usage on the last chunk only")
    equal("".join(c["choices"][0]["delta"]["content"] for c in chunks), "Hello, world.", "content")


def broken_call(s):
    got = post(s.port, "/chat/completions", body("BROKEN", tools=[TOOL]))[2]["choices"][0]
    for call in got["message"].get("tool_calls", []):
        json.loads(call["function"]["arguments"])
    equal("Wait" in got["message"]["content"], True, "the text before the call")


def cut_call(s):
    got = post(s.port, "/chat/completions", body("CALL", tools=[TOOL], max_tokens=25))[2]["choices"][0]
    equal(got["finish_reason"], "length", "finish_reason")
    equal("DSML" in got["message"]["content"], False, "markup in the content")


def refused(s, status, text, request_body, path="/chat/completions"):
    got_status, _, got = post(s.port, path, request_body)
    equal(got_status, status, f"status (body {got!r})")
    equal(list(got["error"]), ["message", "type", "param", "code"], "keys of the error")
    equal(text in got["error"]["message"], True, f"'{text}' in {got['error']['message']!r}")


ASSISTANT_CALL = {"role": "assistant", "content": None, "tool_calls": [
    {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}]}
REFUSALS = [
    ("a boolean for thinking", 422, "expected struct ThinkingOptions", body("x", thinking=True)),
    ("n of 2", 400, "Invalid n value (currently only n = 1 is supported)", body("x", n=2)),
    ("a forced call while thinking", 400, "Thinking mode does not support this tool_choice",
     body("x", tools=[TOOL], tool_choice="required")),
    ("a forced call without tools", 400, "there are no tools", body("x", tool_choice="required", **OFF)),
    ("a forced call of another tool", 400, "the name of one of the tools",
     body("x", tools=[TOOL], tool_choice={"type": "function", "function": {"name": "f"}}, **OFF)),
    ("another tool_choice", 422, "tool_choice", body("x", tools=[TOOL], tool_choice="sometimes", **OFF)),
    ("an unknown model", 400, "Model Not Exist", {**body("x"), "model": "gpt-5"}),
    ("no model", 422, "missing field `model`", {"messages": [{"role": "user", "content": "x"}]}),
    ("no messages", 422, "missing field `messages`", {"model": "deepseek-chat"}),
    ("empty messages", 400, "Empty input messages", {"model": "deepseek-chat", "messages": []}),
    ("stream_options without stream", 400, "stream_options should be set", body("x", stream_options={})),
    ("an image", 400, "text only", body([{"type": "image_url", "image_url": {"url": "x"}}])),
    ("a temperature of 3", 400, "Invalid temperature", body("x", temperature=3)),
    ("a temperature that is text", 422, "temperature: invalid type: string", body("x", temperature="1")),
    ("a top_p of 0", 400, "Invalid top_p", body("x", top_p=0)),
    ("too large max_tokens", 400, "Invalid max_tokens", body("x", max_tokens=393217)),
    ("top_logprobs without logprobs", 400, "logprobs must be true", body("x", top_logprobs=2)),
    ("json_schema without a schema", 422, "json_schema.schema", body("x", response_format={"type": "json_schema"})),
    ("another response_format", 400, "This response_format type is unavailable now", body("x", response_format={"type": "yaml"})),
    ("a schema that cannot be enforced", 400, "at '#/properties/a': the keyword 'not' is not supported", body(
        "x", response_format={"type": "json_schema", "json_schema": {"schema": {"properties": {"a": {"not": {}}}}}})),
    ("json_object without the word", 400, "must contain the word 'json'", body("x", response_format={"type": "json_object"})),
    ("an assistant without content", 400, "content or tool_calls must be set",
     {"model": "deepseek-chat", "messages": [{"role": "assistant", "content": None}]}),
    ("a result without a call", 400, "must be a response to a preceding message",
     {"model": "deepseek-chat", "messages": [{"role": "tool", "content": "x", "tool_call_id": "c1"}]}),
    ("a call without a result", 400, "insufficient tool messages",
     {"model": "deepseek-chat", "messages": [ASSISTANT_CALL, {"role": "user", "content": "x"}]}),
    ("a tool without a name", 422, "tools[0].function: missing field `name`", body("x", tools=[
        {"type": "function", "function": {}}])),
    ("a tool whose name is a number", 422, "tools[0].function: name: expected a string", body("x", tools=[
        {"type": "function", "function": {"name": 1}}])),
    ("a tool whose name has a space", 400, "Invalid 'tools[0].function.name'", body("x", tools=[
        {"type": "function", "function": {"name": "a b"}}])),
    ("two tools of one name", 400, "unique", body("x", tools=[TOOL, TOOL])),
    ("a penalty that is text", 422, "frequency_penalty: invalid type: string", body("x", frequency_penalty="1")),
    ("a tool whose strict is text", 422, "strict: invalid type", body("x", tools=[
        {"type": "function", "function": {"name": "f", "strict": "yes"}}])),
    ("a logit_bias", 400, "logit_bias", body("x", logit_bias={"1": 5})),
    ("a user id with spaces", 400, "user_id", body("x", user_id="a b")),
    ("seventeen stop strings", 400, "stop", body("x", stop=["a"] * 17)),
    ("no JSON", 400, "Failed to parse", b"{"),
    ("nested 3,000 deep", 400, "", b'{"model": "deepseek-chat", "x": ' + b"[" * 3000 + b"]" * 3000 + b"}"),
    ("an array", 422, "expected a map", b"[]"),
    ("invalid UTF-8", 400, "Failed to parse", b'{"model": "\xff"}'),
]


def refusals_elsewhere(s):
    """What has the wrong type or would change the answer is refused in the other dialects too."""
    for path, more, status, text in (
            ("/responses", {"reasoning": 5}, 422, "reasoning: invalid type"), ("/responses", {"text": 5}, 422, "text: invalid type"),
            ("/responses", {"text": {"format": 5}}, 422, "format: invalid type"),
            ("/responses", {"text": {"format": {}}}, 422, "missing field `type`"), ("/responses", {"tools": [5]}, 422, "tools: invalid"),
            ("/responses", {"tools": [{"type": "function", "name": "a", "strict": 1}]}, 422, "strict: invalid type"),
            ("/responses", {"tools": [], "tool_choice": {"type": "allowed_tools"}}, 400, "tool_choice"),
            ("/v1/messages", {"output_config": 5}, 400, "output_config"), ("/v1/messages", {"metadata": 5}, 400, "metadata"),
            ("/v1/messages", {"output_config": {"format": 5}}, 400, "json_schema"),
            ("/beta/completions", {"best_of": 2}, 400, "best_of"), ("/beta/completions", {"logit_bias": {"1": 1}}, 400, "logit_bias"),
            ("/beta/completions", {"presence_penalty": []}, 422, "presence_penalty")):
        got_status, _, got = post(s.port, path, {**body("x"), "input" if path == "/responses" else "prompt": "x", "max_tokens": 9, **more})
        equal((got_status, text in got["error"]["message"]), (status, True), f"{path} {more}: {got!r}")
    equal(post(s.port, "/responses", {"model": "deepseek-chat", "input": "x", "user": "me@example.com"})[0], 200, "any user")


def stop_string(s):
    got = post(s.port, "/chat/completions", body("PLAIN", stop=["wor"], **OFF))[2]["choices"][0]
    equal((got["message"]["content"], got["finish_reason"]), ("Hello, ", "stop"))


def length(s):
    got = post(s.port, "/chat/completions", body("PLAIN", max_tokens=2, **OFF))[2]
    equal((got["choices"][0]["finish_reason"], got["usage"]["completion_tokens"]), ("length", 2))


def no_schemas(s):
    counts = [post(s.port, "/chat/completions", body("x", tools=[TOOL], **more))[2]["usage"]["prompt_tokens"]
              for more in ({}, {"tool_choice": "none"})]
    plain = post(s.port, "/chat/completions", body("x"))[2]["usage"]["prompt_tokens"]
    equal(counts[0] > counts[1] == plain, True, f"counts {counts} {plain}")


def unknown_fields(s):
    equal(post(s.port, "/chat/completions", body("PLAIN", enable_thinking=1, foo={"a": 1}, user=None, **OFF))[0], 200)


def overflow():
    with Scripted(SCRIPT, "--context", "60") as s:
        refused(s, 400, "This model's maximum context length is 60 tokens. However, you requested", body("word " * 100))
        got = post(s.port, "/anthropic/v1/messages", {**body("word " * 100), "max_tokens": 5})
        equal((got[0], "prompt is too long: " in got[2]["error"]["message"]), (400, True), str(got[2]))


def replay():
    history = {"model": "deepseek-v4-flash", "tools": [TOOL], "messages": [
        {"role": "user", "content": "x"}, ASSISTANT_CALL, {"role": "tool", "content": "y", "tool_call_id": "c1"}]}
    with Scripted(SCRIPT) as s:
        equal(post(s.port, "/chat/completions", history)[0], 200, "lenient status")
    with Scripted(SCRIPT, "--strict", "1") as s:
        refused(s, 400, "The `reasoning_content` in the thinking mode must be passed back to the API.", history)
        history["messages"][1] = {**ASSISTANT_CALL, "reasoning_content": ""}
        equal(post(s.port, "/chat/completions", history)[0], 200, "status with reasoning")


def busy():
    with Scripted(SCRIPT, "--running", "1", "--waiting", "1") as s:
        sockets = [server.begin_request(s.port, "/chat/completions", body("SLOW", stream=True))]
        while server.metric(s.port, "vllm:num_requests_running") < 1:
            pass
        sockets.append(server.begin_request(s.port, "/chat/completions", body("SLOW", stream=True)))
        while server.metric(s.port, "vllm:num_requests_waiting") < 1:
            pass
        status, headers, got = post(s.port, "/chat/completions", body("x"))
        equal((status, headers["Retry-After"] is not None), (429, True), f"status (body {got})")
        equal(post(s.port, "/v1/messages", {**body("x"), "max_tokens": 9})[0], 529, "status for Anthropic's clients")
        for c in sockets:
            c.close()


def gone(s, stream_it):
    before = server.metric(s.port, 'vllm:request_success_total{finished_reason="cancelled",model_name="deepseek-v4-flash"}')
    c = server.begin_request(s.port, "/chat/completions", body("SLOW", stream=stream_it))
    while server.metric(s.port, "vllm:num_requests_running") < 1:
        pass
    c.close()
    while server.metric(s.port, "vllm:num_requests_running") > 0:
        pass
    text = request(s.port, "GET", "/metrics")[2]
    line = [x for x in text.split("\n") if x.startswith('vllm:request_success_total{finished_reason="cancelled"')][0]
    equal(float(line.split()[-1]) > before, True, "a request counts as cancelled")


def loading():
    s = Scripted(SCRIPT, "--loading", "3000")
    while request(s.port, "GET", "/health")[2].get("progress") == 0:
        pass
    status, headers, got = post(s.port, "/chat/completions", body("x"))
    equal((status, "loading" in got["error"]["message"], headers["Retry-After"]), (503, True, "10"), f"answer {got}")
    equal(request(s.port, "GET", "/health")[2]["progress"], 0.25, "progress")
    server.wait_ready(s.port)
    equal(post(s.port, "/chat/completions", body("PLAIN"))[0], 200, "status when loaded")
    equal(s.stop(), 0, "exit code")


def graceful():
    s = Scripted(SCRIPT)
    server.wait_ready(s.port)
    result = {}
    t = threading.Thread(target=lambda: result.update(d=deltas(s, "SLOW", **OFF)))
    t.start()
    while server.metric(s.port, "vllm:num_requests_running") < 1:
        pass
    equal(s.stop(), 0, "exit code")
    t.join()
    equal(result["d"][-1]["choices"][0]["finish_reason"], "stop", "what ran was finished")


def impatient():
    s = Scripted(SCRIPT, "--grace", "0")
    server.wait_ready(s.port)
    result = {}
    t = threading.Thread(target=lambda: result.update(r=post(s.port, "/chat/completions", body("SLOW", **OFF))))
    t.start()
    while server.metric(s.port, "vllm:num_requests_running") < 1:
        pass
    equal(s.stop(), 0, "exit code")
    t.join()
    equal(result["r"][2]["choices"][0]["finish_reason"], "aborted", "what ran was cancelled")


def too_large():
    with Scripted(SCRIPT, "--body-max", "1000") as s:
        equal(post(s.port, "/chat/completions", body("x" * 2000))[0], 413, "status, announced")
        c = socket.create_connection(("127.0.0.1", s.port))
        c.sendall(b"POST /chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" +
                  b"7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n")
        equal(c.recv(100).split()[1], b"413", "status, in chunks")
        c.close()


def framing(s):
    for junk in (b"\x00\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"POST / HTTP/9.9\r\nContent-Length: -5\r\n\r\n",
                 b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20000, b"POST /chat/completions HTTP/1.1\r\nContent-Len"):
        c = socket.create_connection(("127.0.0.1", s.port))
        try:
            c.sendall(junk)
        except OSError:
            pass  # the server has closed it already
        c.close()
    equal(request(s.port, "GET", "/health")[0], 200, "status afterwards")


def keep_alive(s):
    import http.client
    c = http.client.HTTPConnection("127.0.0.1", s.port)
    for _ in range(3):
        c.request("POST", "/chat/completions", json.dumps(body("PLAIN", **OFF)))
        equal(json.loads(c.getresponse().read())["choices"][0]["message"]["content"], "Hello, world.")
    c.close()


def many(s):
    results = []
    def one():
        results.append("".join(c["choices"][0]["delta"]["content"] for c in deltas(s, "PLAIN", **OFF)))
    threads = [threading.Thread(target=one) for _ in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    equal(results, ["Hello, world."] * 64, "64 streams at once")


def paths(s):
    equal(request(s.port, "GET", "/nope")[0], 404, "status of an unknown path")
    equal(request(s.port, "GET", "/anthropic/nope")[2]["error"]["type"], "not_found_error", "Anthropic's form of it")
    equal(request(s.port, "GET", "/anthropic/v1/messages")[0], 405, "status of another method, Anthropic's")
    equal(request(s.port, "HEAD", "/api/hello")[0], 404, "status of HEAD")
    equal(request(s.port, "GET", "/chat/completions")[0], 405, "status of another method")
    equal(post(s.port, "/chat/completions?beta=true", body("PLAIN", **OFF))[0], 200, "status with a query")
    equal(post(s.port, "/v1/embeddings", {})[0], 404, "status of /v1/embeddings")
    refused(s, 404, "Files are not supported", {}, "/v1/files")
    refused(s, 404, "neither stored nor compacted", {}, "/v1/responses/compact")
    equal(request(s.port, "GET", "/anthropic/v1/files/x")[2]["error"]["type"], "not_found_error", "Anthropic's form")
    for path, text in (("/files/x", "Files are not"), ("/v1/responses/x", "neither stored"), ("/anthropic/v1/files/x", "Files are not")):
        status, _, got = request(s.port, "DELETE", path)
        equal((status, text in got["error"]["message"]), (404, True), f"DELETE {path}")
    refused(s, 400, "completions api is only available when using beta api", {}, "/completions")


def fim(s):
    ask = {"model": "deepseek-v4-flash", "prompt": "def PLAIN", "suffix": "end <think>", "max_tokens": 50}
    got = post(s.port, "/beta/completions", ask)[2]
    equal((got["object"], got["choices"][0]["text"], got["choices"][0]["finish_reason"]),
          ("text_completion", "Hello, world.", "stop"))
    parts = [post(s.port, "/tokenize", {"content": ask[k]})[2]["count"] for k in ("prompt", "suffix")]
    equal(got["usage"]["prompt_tokens"], sum(parts) + 4, "the prompt: four control tokens, the rest text")
    frames = stream(s.port, "/beta/completions", {**ask, "stream": True})
    equal("".join(json.loads(f[1])["choices"][0]["text"] for f in frames[:-1]), "Hello, world.", "the stream")
    got = post(s.port, "/beta/completions", {"model": "deepseek-v4-flash", "prompt": "PLAIN", "echo": True})[2]
    equal(got["choices"][0]["text"], "PLAINHello, world.", "echo")
    refused(s, 400, "Invalid logprobs", {**ask, "logprobs": 21}, "/beta/completions")
    refused(s, 400, "Invalid max_tokens", {**ask, "max_tokens": 4097}, "/beta/completions")
    refused(s, 400, "echo and logprobs", {**ask, "suffix": None, "echo": True, "logprobs": 1}, "/beta/completions")


def fim_logprobs(s):
    ask = {"model": "deepseek-v4-flash", "prompt": "PLAIN", "logprobs": 2}
    got = post(s.port, "/beta/completions", ask)[2]["choices"][0]["logprobs"]
    equal(list(got), ["tokens", "token_logprobs", "top_logprobs", "text_offset"], "keys")
    equal("".join(got["tokens"]), "Hello, world.", "tokens")
    equal(got["text_offset"], [len("".join(got["tokens"][:i])) for i in range(len(got["tokens"]))], "offsets")
    equal([len(t) for t in got["top_logprobs"]], [2] * len(got["tokens"]), "alternatives")
    equal(all(t in top for t, top in zip(got["tokens"], got["top_logprobs"])), True, "the chosen token is among them")
    frames = [json.loads(f[1])["choices"][0]["logprobs"] for f in stream(s.port, "/beta/completions",
                                                                        {**ask, "stream": True})[:-1]]
    for key in got:
        equal([v for f in frames for v in f[key]], got[key], f"{key} of the stream")
    equal(post(s.port, "/beta/completions", {**ask, "logprobs": 0})[2]["choices"][0]["logprobs"]["top_logprobs"][0], {}, "none")


def prefix(s):
    messages = [{"role": "user", "content": "PLAIN"}, {"role": "assistant", "content": "Oh.", "prefix": True}]
    got = post(s.port, "/beta/chat/completions", {**body(""), "messages": messages, **OFF})[2]
    equal(got["choices"][0]["message"]["content"], "Hello, world.", "only the continuation")
    refused(s, 400, "prefix", {**body(""), "messages": messages + [{"role": "user", "content": "x"}]})


def tokens(s):
    ids = post(s.port, "/tokenize", {"content": "Hello 深圳 <think>"})[2]["tokens"]
    equal(post(s.port, "/detokenize", {"tokens": ids})[2]["content"], "Hello 深圳 <think>", "there and back")
    special = post(s.port, "/tokenize", {"content": "<think>", "parse_special": True})[2]
    equal(special["count"], 1, "a control token that is asked for")
    equal(post(s.port, "/detokenize", {"tokens": [10 ** 9]})[0], 400, "status of an id that is none")
    chat = post(s.port, "/tokenize", body("PLAIN"))[2]["count"]
    equal(post(s.port, "/chat/completions", body("PLAIN"))[2]["usage"]["prompt_tokens"], chat, "tokens of a chat")


def deferred_tools(s):
    """As Claude Code sends them: the schema of a deferred tool is no part of the prompt until a result refers to it."""
    ready, deferred = ({"name": n, "input_schema": {"type": "object", "properties": {}}} for n in ("ToolSearch", "WebFetch"))
    deferred = {**deferred, "description": "x " * 200, "defer_loading": True}
    messages = [{"role": "user", "content": "x"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "ToolSearch", "input": {}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": [
                    {"type": "tool_reference", "tool_name": "WebFetch"}]}]}]
    ask = {"model": "claude-x", "messages": messages[:1], "tools": [ready]}
    count = lambda **more: post(s.port, "/v1/messages/count_tokens", {**ask, **more})[2]["input_tokens"]
    equal(count(tools=[ready, deferred]), count(), "tokens with a deferred tool")
    equal(count(messages=messages, tools=[ready, deferred]) > count(messages=messages) + 200, True, "tokens once it is loaded")
    equal(post(s.port, "/v1/messages", {**ask, "messages": messages, "tools": [ready, deferred], "max_tokens": 9})[0], 200)


def models(s):
    got = request(s.port, "GET", "/v1/models")[2]
    equal((got["object"], got["data"][0]["id"]), ("list", "deepseek-v4-flash"))
    equal(request(s.port, "GET", "/v1/models?client_version=1")[2]["models"][0]["slug"], "deepseek-v4-flash", "for Codex")
    equal(request(s.port, "GET", "/models/deepseek-chat")[2]["object"], "model", "one model by an alias")
    equal(request(s.port, "GET", "/models/gpt-5")[0], 404, "status of an unknown model")
    equal(request(s.port, "GET", "/beta/models/deepseek-chat")[2]["object"], "model", "one model under /beta")
    equal(request(s.port, "GET", "/v1/user/balance")[2]["is_available"], True, "the balance under /v1")
    for path, headers in (("/anthropic/v1/models?limit=1000", {}), ("/v1/models", {"anthropic-version": "2023-06-01"})):
        got = request(s.port, "GET", path, None, headers)[2]
        equal((got["data"][0]["type"], got["has_more"]), ("model", False), "Anthropic's list")


def pings():
    with Scripted([{"when": "", "reply": "Ok.", "delay_ms": 2500}], "--ping", "1") as s:
        results = {}
        def one(path, more):
            c = server.begin_request(s.port, path, {**body("x"), "max_tokens": 2, **OFF, **more})
            data = b""
            while not data.endswith(b"0\r\n\r\n"):
                data += c.recv(4096)
            results[path, bool(more)] = data
        threads = [threading.Thread(target=one, args=a) for a in
                   (("/chat/completions", {}), ("/chat/completions", {"stream": True}), ("/v1/messages", {"stream": True}))]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        equal(b": keep-alive\n\n" in results["/chat/completions", True], True, "a comment in a stream")
        equal(b'event: ping\ndata: {"type":"ping"}\n\n' in results["/v1/messages", True], True, "a ping")
        head, _, chunks = results["/chat/completions", False].partition(b"\r\n\r\n")
        equal((chunks[:4], b'"content":"Ok' in chunks), (b"1\r\n\n", True), "an empty line before a whole answer")


def unix_socket():
    path = os.path.join(server.work, "socket")
    with Scripted(SCRIPT, "--unix", path):
        c = socket.socket(socket.AF_UNIX)
        c.connect(path)
        c.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        equal(c.recv(100).split()[1], b"200", "status")
        c.close()
    equal(os.path.exists(path), False, "the socket is there afterwards")


with Scripted(SCRIPT) as s:
    check("a whole answer", lambda: whole_plain(s))
    check("a whole answer with thinking", lambda: whole_thinking(s))
    check("a whole answer with a call", lambda: whole_call(s))
    check("a stream", lambda: stream_plain(s))
    check("a stream with thinking and a call", lambda: stream_call(s))
    check("a malformed call", lambda: broken_call(s))
    check("a call that is cut", lambda: cut_call(s))
    check("refusals in the other dialects", lambda: refusals_elsewhere(s))
    check("a stop string", lambda: stop_string(s))
    check("max_tokens", lambda: length(s))
    check("tool_choice none renders no schemas", lambda: no_schemas(s))
    check("unknown fields are ignored", lambda: unknown_fields(s))
    for name, status, text, b in REFUSALS:
        check(f"refused: {name}", lambda: refused(s, status, text, b))
    check("a client that leaves a stream", lambda: gone(s, True))
    check("a client that leaves a whole answer", lambda: gone(s, False))
    check("broken HTTP", lambda: framing(s))
    check("several requests on one connection", lambda: keep_alive(s))
    check("64 streams", lambda: many(s))
    check("text completions and filling in", lambda: fim(s))
    check("logprobs of text completions", lambda: fim_logprobs(s))
    check("prefix completion", lambda: prefix(s))
    check("paths", lambda: paths(s))
    check("tokenize and detokenize", lambda: tokens(s))
    check("deferred tools", lambda: deferred_tools(s))
    check("lists of models", lambda: models(s))
check("the context is full", overflow)
check("reasoning in histories", replay)
check("the queue is full", busy)
check("the model is loading", loading)
check("shutdown lets requests end", graceful)
check("shutdown cancels after the grace time", impatient)
check("a body that is too large", too_large)
check("something is sent while nothing comes", pings)
check("a socket in the file system", unix_socket)
server.done()
