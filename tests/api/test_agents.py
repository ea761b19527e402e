#!/usr/bin/env python3
"""The requests of Codex and opencode in their exact shapes, turn by turn, and the events each reads, in order."""
import json

import server
from server import Scripted, check, equal, post, stream


def call(name, parameter, value):
    return (f'\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="{name}">\n<｜DSML｜parameter name="{parameter}" string="true">'
            f'{value}</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>')


PATCH = "*** Begin Patch\n*** Add File: a.txt\n+one\n*** End Patch"
SCRIPT = [
    {"when": "Patched", "reply": "All is done.</think>The file is there."},
    {"when": "nothing here", "reply": "Write it.</think>" + call("apply_patch", "input", PATCH)},
    {"when": "Make a.txt", "reply": "I look first.</think>Looking." + call("shell", "command", "ls")},
    {"when": "title", "reply": "A new file"},
    {"when": "", "reply": "Ok.</think>Ok."},
]
MODEL = "deepseek-v4-flash"

# ---------------------------------------------------------------- Codex


def message(role, text):
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


CODEX = {
    "model": MODEL,
    "instructions": "You are a coding agent.",
    "tools": [
        {"type": "function", "name": "shell", "description": "Runs a command", "strict": False,
         "parameters": {"type": "object", "properties": {"command": {"type": "string"}, "workdir": {"type": "string"}},
                        "required": ["command"], "additionalProperties": False}},
        {"type": "custom", "name": "apply_patch", "description": "Edits files",
         "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}},
        {"type": "namespace", "name": "mcp", "description": "x", "tools": []},
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"effort": "high", "summary": "auto"},
    "store": False,
    "stream": True,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "0199a213-81c0-7800-8aa1-bbab2a035a53",
    "text": {"verbosity": "medium"},
    "client_metadata": {"x-codex-installation-id": "1"},
}
OPEN = [message("developer", "<permissions>read only</permissions>"), message("user", "<environment_context/>"),
        message("user", "Make a.txt")]
HEAD = ["response.created", "response.in_progress"]
DELTAS = ("response.reasoning_text.delta", "response.output_text.delta", "response.function_call_arguments.delta",
          "response.custom_tool_call_input.delta")


def item(*inner):
    return ["response.output_item.added", *inner, "response.output_item.done"]


REASONING = item("response.content_part.added", "response.reasoning_text.delta", "response.reasoning_text.done",
                 "response.content_part.done")
MESSAGE = item("response.content_part.added", "response.output_text.delta", "response.output_text.done",
               "response.content_part.done")
FUNCTION = item("response.function_call_arguments.delta", "response.function_call_arguments.done")
CUSTOM = item("response.custom_tool_call_input.delta", "response.custom_tool_call_input.done")


def codex(s, history, wanted):
    """One turn; the items that Codex keeps: those of output_item.done."""
    frames = stream(s.port, "/v1/responses", {**CODEX, "input": history}, {"Accept": "text/event-stream"})
    events = [json.loads(data) for _, data in frames]
    equal([name for name, _ in frames], [e["type"] for e in events], "event lines")
    equal([e["sequence_number"] for e in events], list(range(len(events))), "sequence numbers")
    kinds = [e["type"] for e in events]
    order = [k for i, k in enumerate(kinds) if i == 0 or k != kinds[i - 1] or k not in DELTAS]
    equal(order, HEAD + wanted + ["response.completed"], "events")
    end = events[-1]["response"]
    usage = end["usage"]
    equal(usage["total_tokens"], usage["input_tokens"] + usage["output_tokens"], "tokens")
    equal(usage["output_tokens_details"]["reasoning_tokens"] > 0, True, "reasoning tokens")
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    equal(end["output"], done, "the output at the end")
    for i, one in enumerate(done):
        deltas = [e for e in events if e["type"] in DELTAS and e["output_index"] == i]
        text = one.get("input", one.get("arguments")) if one["type"].endswith("call") else one["content"][0]["text"]
        equal("".join(e["delta"] for e in deltas), text, f"deltas of {one['type']}")
        equal({e["item_id"] for e in deltas}, {one["id"]}, f"ids of {one['type']}")
    return done


def codex_history(items):
    """Codex sends items back without their ids and states, reasoning with what was encrypted, which may be nothing."""
    kept = [{k: v for k, v in one.items() if k not in ("id", "status", "phase")} for one in items]
    return [{**one, "encrypted_content": None} if one["type"] == "reasoning" else one for one in kept]


def codex_task():
    with Scripted(SCRIPT) as s:
        first = codex(s, OPEN, REASONING + MESSAGE + FUNCTION)
        equal((first[2]["name"], json.loads(first[2]["arguments"])), ("shell", {"command": "ls"}), "the call")
        history = OPEN + codex_history(first) + [
            {"type": "function_call_output", "call_id": first[2]["call_id"],
             "output": [{"type": "input_text", "text": "nothing here"}]}]
        second = codex(s, history, REASONING + CUSTOM)
        equal((second[1]["name"], second[1]["input"]), ("apply_patch", PATCH), "the patch")
        history += codex_history(second) + [{"type": "custom_tool_call_output", "call_id": second[1]["call_id"],
                                             "output": "Patched"}]
        third = codex(s, history, REASONING + MESSAGE)
        equal(third[1]["content"][0]["text"], "The file is there.", "the answer")


def codex_probe():
    with Scripted(SCRIPT) as s:
        for more in ({}, {"instructions": "x"}):
            got = post(s.port, "/v1/responses", {"model": MODEL, "input": [], "max_output_tokens": 1, **more})
            equal((got[0], got[2].get("status")), (200, "incomplete"), f"status of {got[2]}")
        got = server.request(s.port, "GET", "/v1/models?client_version=0.145.0")[2]
        equal((got["models"][0]["slug"], got["data"][0]["id"]), (MODEL, MODEL), "both lists of models")


# ---------------------------------------------------------------- opencode

OPENCODE = {
    "model": MODEL, "max_tokens": 32000, "temperature": 0.6, "top_p": 0.95, "tool_choice": "auto", "stream": True,
    "stream_options": {"include_usage": True}, "reasoning_effort": "high",
    "tools": [{"type": "function", "function": {"name": "shell", "description": "Runs a command", "parameters": {
        "$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "properties": {"command": {"type": "string"}}, "required": ["command"], "additionalProperties": False}}}],
}


def opencode(s, history, **more):
    """The assistant's message as opencode puts it together, and the kinds of deltas in order."""
    frames = [data for _, data in stream(s.port, "/v1/chat/completions", {**OPENCODE, "messages": history, **more})]
    equal(frames[-1], "[DONE]", "the last frame")
    chunks = [json.loads(f) for f in frames[:-1]]
    equal([c["usage"] is None for c in chunks], [True] * (len(chunks) - 1) + [False], "usage on the last chunk alone")
    m, kinds = {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": []}, []
    for c in chunks:
        delta = c["choices"][0]["delta"]
        kind = [k for k in ("tool_calls", "reasoning_content", "content") if delta.get(k)]
        if kind and kinds[-1:] != kind:
            kinds += kind
        for k in ("content", "reasoning_content"):
            m[k] += delta.get(k) or ""
        for piece in delta.get("tool_calls", []):
            if "id" in piece:
                equal((piece["index"], piece["function"]["arguments"]), (len(m["tool_calls"]), ""), "the head of a call")
                m["tool_calls"].append({k: piece[k] for k in ("id", "type", "function")})
            else:
                m["tool_calls"][piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return {k: v for k, v in m.items() if v}, kinds, chunks[-1]["choices"][0]["finish_reason"]


def opencode_task():
    with Scripted(SCRIPT) as s:
        history = [{"role": "system", "content": "You are a coding agent."}, {"role": "user", "content": "Make a.txt"}]
        m, kinds, finish = opencode(s, history)
        equal((kinds, finish), (["reasoning_content", "content", "tool_calls"], "tool_calls"), "deltas")
        history += [m, {"role": "tool", "tool_call_id": m["tool_calls"][0]["id"], "content": "Patched"}]
        m, kinds, finish = opencode(s, history)
        equal((kinds, finish, m["content"]), (["reasoning_content", "content"], "stop", "The file is there."), "deltas")
        title = [{"role": "system", "content": "Write a title."}, {"role": "user", "content": "title, please"}]
        m, kinds, finish = opencode(s, title, tools=[], thinking={"type": "disabled"})
        equal((kinds, finish, m), (["content"], "stop", {"role": "assistant", "content": "A new file"}), "the title")


check("Codex: three turns of a task", codex_task)
check("Codex: an empty request and the lists of models", codex_probe)
check("opencode: three requests of a task", opencode_task)
server.done()
