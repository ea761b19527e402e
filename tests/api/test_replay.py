"""Exact replay over every dialect: an agent sends its conversation back as its own JSON library writes it - other spacing,
other key order, reasoning dropped - and the server finds the tokens that were generated, hence its state."""
import json
import os
import sys

sys.path.insert(0, "tests/api")
import server
from server import Scripted, check, equal, post

TURNS = 6
SYSTEM = "You are an agent that looks at stations. " + "Be exact and brief, and never guess a number. " * 40
PARAMETERS = {"type": "object", "properties": {"station": {"type": "string"}, "height": {"type": "number"}}}
CONTROLS = ["</think>", "｜DSML｜"]


def as_tokens(text):
    """A token for each byte, control tokens as themselves: what no encoder makes of this text."""
    tokens = []
    while text:
        control = [c for c in CONTROLS if text.startswith(c)]
        piece = control[0] if control else text[0]
        text = text[len(piece):]
        tokens += [list(piece.encode())] if control else [[b] for b in piece.encode()]
    return tokens


def reply(i):
    if i == TURNS:
        return as_tokens("Now I know.</think>All done.")
    return as_tokens(f"I look at {i}.</think>Looking.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"look\">\n"
                     f"<｜DSML｜parameter name=\"station\" string=\"true\">Köln \"{i}\"</｜DSML｜parameter>\n"
                     f"<｜DSML｜parameter name=\"height\" string=\"false\">{i}.50</｜DSML｜parameter>\n"
                     "</｜DSML｜invoke>\n</｜DSML｜tool_calls>")


SCRIPT = [{"when": f"result-{i - 1}" if i > 0 else "begin", "reply": reply(i)} for i in reversed(range(TURNS + 1))]


def rewritten(arguments):
    return json.dumps(json.loads(arguments), sort_keys=True, separators=(",", ":"))


def deepseek(s, turns, keeps_reasoning, user):
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "begin"}]
    tools = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": PARAMETERS}}]
    for i in range(turns):
        status, _, got = post(s.port, "/chat/completions", {"model": "deepseek-v4-flash", "messages": messages,
                                                            "tools": tools, "user": user})
        equal(status, 200, f"status of {got}")
        m, usage = got["choices"][0]["message"], got["usage"]
        yield usage["prompt_cache_hit_tokens"], usage["prompt_tokens"], usage["completion_tokens"]
        calls = [{"id": c["id"], "type": "function", "function": {"arguments": rewritten(c["function"]["arguments"]),
                                                                  "name": "look"}} for c in m.get("tool_calls", [])]
        again = {"role": "assistant", "content": m["content"], "tool_calls": calls}
        messages.append(dict(again, reasoning_content=m["reasoning_content"]) if keeps_reasoning else again)
        messages += [{"role": "tool", "tool_call_id": c["id"], "content": f"result-{i}"} for c in calls]


def anthropic(s, turns, keeps_reasoning, user):
    messages = [{"role": "user", "content": "begin"}]
    tools = [{"name": "look", "description": "Looks.", "input_schema": PARAMETERS}]
    for i in range(turns):
        status, _, got = post(s.port, "/anthropic/v1/messages", {
            "model": "deepseek-v4-flash", "system": SYSTEM, "messages": messages, "tools": tools, "max_tokens": 1000,
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "metadata": {"user_id": user}})
        equal(status, 200, f"status of {got}")
        u = got["usage"]
        hit = u["cache_read_input_tokens"]
        yield hit, hit + u["input_tokens"] + u.get("cache_creation_input_tokens", 0), u["output_tokens"]
        blocks = [dict(b, input=dict(sorted(b["input"].items()))) if b["type"] == "tool_use" else b
                  for b in got["content"] if keeps_reasoning or b["type"] != "thinking"]
        messages.append({"role": "assistant", "content": blocks})
        messages.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": b["id"],
                                                      "content": f"result-{i}"} for b in blocks if b["type"] == "tool_use"]})


def responses(s, turns, keeps_reasoning, user):
    items = [{"role": "user", "content": "begin"}]
    tools = [{"type": "function", "name": "look", "description": "Looks.", "parameters": PARAMETERS}]
    for i in range(turns):
        status, _, got = post(s.port, "/v1/responses", {"model": "deepseek-v4-flash", "instructions": SYSTEM, "input": items,
                                                        "tools": tools, "user": user})
        equal(status, 200, f"status of {got}")
        u = got["usage"]
        yield u["input_tokens_details"]["cached_tokens"], u["input_tokens"], u["output_tokens"]
        for item in got["output"]:
            if item["type"] == "function_call":
                items.append(dict(item, arguments=rewritten(item["arguments"])))
                items.append({"type": "function_call_output", "call_id": item["call_id"], "output": f"result-{i}"})
            elif keeps_reasoning or item["type"] != "reasoning":
                items.append(item)


def conversation(s, dialect, keeps_reasoning, user):
    hits = prompts = known = 0
    for i, (hit, prompt, completion) in enumerate(dialect(s, TURNS + 1, keeps_reasoning, user)):
        if i > 0:  # all but the end token, the result and the header of the next reply
            if hit < known:
                return f"turn {i}: {hit} of {prompt} prompt tokens were cached; {known} were computed before"
            hits += hit
            prompts += prompt
        known = prompt + completion - 1
    if hits < 0.95 * prompts:
        return f"{hits} of {prompts} prompt tokens were cached"


def other_arguments(s):
    """A client that changes what a call said gets no remembered tokens."""
    first = next(deepseek(s, 1, True, "eve"))
    body = {"model": "deepseek-v4-flash", "user": "eve", "messages": [
        {"role": "system", "content": SYSTEM}, {"role": "user", "content": "begin"},
        {"role": "assistant", "content": "Looking.", "reasoning_content": "I look at 0.", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "look", "arguments":
                                                         '{"station": "Köln \\"0\\"", "height": 0.51}'}}]},
        {"role": "tool", "tool_call_id": "c", "content": "result-0"}],
        "tools": [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": PARAMETERS}}]}
    changed = post(s.port, "/chat/completions", body)[2]["usage"]
    call = body["messages"][2]["tool_calls"][0]["function"]
    call["arguments"] = '{"height":0.5,"station":"K\\u00f6ln \\"0\\""}'
    same = post(s.port, "/chat/completions", body)[2]["usage"]
    if changed["prompt_cache_hit_tokens"] > first[1] + 1:
        return f"{changed['prompt_cache_hit_tokens']} tokens hit after another number; the prompt before had {first[1]}"
    if same["prompt_cache_hit_tokens"] < first[1] + first[2] - 1:
        return f"{same['prompt_cache_hit_tokens']} tokens hit; {first[1] + first[2]} were known"


def after_restart(path):
    """State is gone with the process; that the same tokens are asked for is seen in the prompt's count."""
    counts = []
    for options in (["--replies", path], ["--replies", path], []):
        with Scripted(SCRIPT, "--keep", "4", *options) as s:
            if not counts:
                list(deepseek(s, TURNS, False, "ann"))
                messages = remembered(s)
            counts.append(post(s.port, "/chat/completions", messages)[2]["usage"]["prompt_tokens"])
    equal(counts[1], counts[0], "prompt tokens after a restart")
    if counts[2] >= counts[0]:
        return f"without the file the prompt has {counts[2]} tokens, not fewer than {counts[0]}"


def remembered(s):
    body = {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "begin"}]}
    m = post(s.port, "/chat/completions", body)[2]["choices"][0]["message"]
    calls = [dict(c, function={"name": "look", "arguments": rewritten(c["function"]["arguments"])}) for c in m["tool_calls"]]
    body["messages"] += [{"role": "assistant", "content": m["content"], "tool_calls": calls},
                         {"role": "tool", "tool_call_id": calls[0]["id"], "content": "result-0"}]
    return body


with Scripted(SCRIPT, "--keep", "64") as s:
    for dialect in (deepseek, anthropic, responses):
        for keeps in (True, False):
            name = f"{dialect.__name__}, reasoning {'sent back' if keeps else 'dropped'}"
            check(f"{name}: 0.95 of the prompts are hits",
                  lambda d=dialect, k=keeps: conversation(s, d, k, f"{d.__name__}-{k}"))
    check("another number in the arguments is another reply", lambda: other_arguments(s))
check("replies are remembered over a restart", lambda: after_restart(os.path.join(server.work, "replies")))
server.done()
