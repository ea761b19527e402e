#!/usr/bin/env python3
"""Responses of the official API, replayed: the scripted model gives the same tokens, and the answer must have the same
keys in the same order, the same text and the same usage. The prompt counts come from our encoder and tokenizer alone."""
import json
import lzma

import server

cases = json.loads(lzma.open("tests/data/official_api.json.xz").read())


def shape(v):
    """Keys in order, values by type; a null stays a null. Of a list one element stands for all."""
    if isinstance(v, dict):
        return [(k, shape(x)) for k, x in v.items()]
    if isinstance(v, list):
        shapes = {json.dumps(shape(x)) for x in v}
        return sorted(shapes)
    return type(v).__name__


def script(cases):
    return [{"when": c["prompt"], "reply": [t["bytes"] for t in c["response"]["choices"][0]["logprobs"]["content"]]}
            for c in sorted(cases, key=lambda c: -len(c["prompt"]))]


def body(case, **more):
    length = case["response"]["usage"]["completion_tokens"]
    cut = case["response"]["choices"][0]["finish_reason"] == "length"
    return {"model": "deepseek-v4-flash", "thinking": {"type": "disabled"}, "max_tokens": length if cut else length + 10,
            "messages": [{"role": "user", "content": case["prompt"]}], "logprobs": True, "temperature": 0,
            "top_logprobs": len(case["response"]["choices"][0]["logprobs"]["content"][0]["top_logprobs"]), **more}


def without_cache(usage):
    """The official service had a cache; what it hit there is missed here."""
    return {**usage, "prompt_tokens_details": None, "prompt_cache_hit_tokens": None, "prompt_cache_miss_tokens": None}


def whole(s, case):
    status, _, got = server.post(s.port, "/chat/completions", body(case))
    want = case["response"]
    server.equal(status, 200, f"status of {got!r}")
    server.equal(shape(got), shape(want), "shape")
    server.equal(got["choices"][0]["message"], want["choices"][0]["message"], "message")
    server.equal(got["choices"][0]["finish_reason"], want["choices"][0]["finish_reason"], "finish_reason")
    server.equal(without_cache(got["usage"]), without_cache(want["usage"]), "usage")
    server.equal([(t["token"], t["bytes"]) for t in got["choices"][0]["logprobs"]["content"]],
                 [(t["token"], t["bytes"]) for t in want["choices"][0]["logprobs"]["content"]], "tokens")


def streamed(s, case):
    frames = server.stream(s.port, "/chat/completions", body(case, stream=True))
    server.equal(frames[-1][1], "[DONE]", "the last frame")
    chunks = [json.loads(data) for _, data in frames[:-1]]
    keys = ["id", "object", "created", "model", "system_fingerprint", "choices"]
    for c in chunks[:-1]:
        server.equal(list(c), keys, "keys of a chunk")
    server.equal(list(chunks[-1]), keys + ["usage"], "keys of the last chunk")
    server.equal("".join(c["choices"][0]["delta"]["content"] for c in chunks),
                 case["response"]["choices"][0]["message"]["content"], "content")
    server.equal(without_cache(chunks[-1]["usage"]), without_cache(case["response"]["usage"]), "usage")
    tokens = [t for c in chunks for t in (c["choices"][0]["logprobs"] or {"content": []})["content"]]
    server.equal(len(tokens), case["response"]["usage"]["completion_tokens"], "tokens with logprobs")


# Both models were asked the same questions.
for model in ("deepseek-v4-flash", "deepseek-v4-pro"):
    some = [c for c in cases if c["response"]["model"] == model]
    with server.Scripted(script(some), tokenizer=server.official_tokenizer()) as s:
        for i, case in enumerate(some):
            server.check(f"official response {i} of {model}, whole", lambda: whole(s, case))
            server.check(f"official response {i} of {model}, streamed", lambda: streamed(s, case))
server.done()
