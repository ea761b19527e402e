#!/usr/bin/env python3
"""The openai and anthropic clients of PyPI against the server, as their users call them."""
import asyncio
import json

import server

server.use_clients()

import anthropic
import openai
from server import Scripted, check, equal

CALLS = ('\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n'
         '<｜DSML｜parameter name="location" string="true">深圳</｜DSML｜parameter>\n'
         '</｜DSML｜invoke>\n<｜DSML｜invoke name="get_weather">\n'
         '<｜DSML｜parameter name="location" string="true">Paris</｜DSML｜parameter>\n'
         '</｜DSML｜invoke>\n</｜DSML｜tool_calls>')
PATCH = ('Now.</think>\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="apply_patch">\n'
         '<｜DSML｜parameter name="input" string="true">*** Begin Patch\n"x"</｜DSML｜parameter>\n'
         '</｜DSML｜invoke>\n</｜DSML｜tool_calls>')
SCRIPT = [
    {"when": "PLAIN", "reply": "Hello, world."},
    {"when": "PATCH", "reply": PATCH},
    {"when": "RESULT", "reply": "Good.</think>Sunny."},
    {"when": "CALL", "reply": "I look.</think>Wait." + CALLS},
    {"when": "THINK", "reply": "Let me see.</think>It is 4."},
    {"when": "SLOW", "reply": "word " * 400, "delay_ms": 20},
    {"when": "", "reply": "Ok."},
]
SCHEMA = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}]
A_TOOLS = [{"name": "get_weather", "description": "x", "input_schema": SCHEMA}]
R_TOOLS = [{"type": "function", "name": "get_weather", "parameters": SCHEMA, "strict": False}]
OFF = {"thinking": {"type": "disabled"}}
MODEL = "deepseek-v4-flash"


def user(text):
    return [{"role": "user", "content": text}]


# ---------------------------------------------------------------- openai, chat

def chat(c):
    r = c.chat.completions.create(model=MODEL, messages=user("PLAIN"), extra_body=OFF)
    equal((r.choices[0].message.content, r.choices[0].finish_reason), ("Hello, world.", "stop"))
    equal(r.usage.total_tokens, r.usage.prompt_tokens + r.usage.completion_tokens, "total")


def chat_tools(c):
    messages = user("CALL")
    m = c.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS).choices[0].message
    equal((m.content, m.reasoning_content), ("Wait.", "I look."))
    equal([json.loads(t.function.arguments) for t in m.tool_calls], [{"location": "深圳"}, {"location": "Paris"}])
    messages.append(m.model_dump(exclude_none=True))
    messages += [{"role": "tool", "tool_call_id": t.id, "content": "RESULT"} for t in m.tool_calls]
    r = c.chat.completions.create(model=MODEL, messages=messages, tools=TOOLS)
    equal(r.choices[0].message.content, "Sunny.")


def chat_stream(c):
    with c.chat.completions.stream(model=MODEL, messages=user("CALL"), tools=TOOLS) as s:
        kinds = [e.type for e in s]
        m = s.get_final_completion().choices[0].message
    equal("tool_calls.function.arguments.delta" in kinds, True, f"events {set(kinds)}")
    equal([(t.function.name, json.loads(t.function.arguments)) for t in m.tool_calls],
          [("get_weather", {"location": "深圳"}), ("get_weather", {"location": "Paris"})])


def chat_usage(c):
    chunks = list(c.chat.completions.create(model=MODEL, messages=user("THINK"), stream=True,
                                            stream_options={"include_usage": True}))
    equal(chunks[-1].usage.completion_tokens_details.reasoning_tokens > 0, True, "reasoning tokens")
    equal("".join(getattr(x.choices[0].delta, "reasoning_content", None) or "" for x in chunks), "Let me see.")


def chat_logprobs(c):
    r = c.chat.completions.create(model=MODEL, messages=user("PLAIN"), logprobs=True, top_logprobs=3, extra_body=OFF)
    tokens = r.choices[0].logprobs.content
    equal(b"".join(bytes(t.bytes) for t in tokens), b"Hello, world.")
    equal([t.top_logprobs[0].token for t in tokens], [t.token for t in tokens], "the chosen token is the first")


def chat_errors(c):
    for kind, more in ((openai.BadRequestError, {"n": 2}), (openai.UnprocessableEntityError, {"extra_body": {"thinking": 1}})):
        try:
            c.chat.completions.create(model=MODEL, messages=user("x"), **more)
            return f"{more} was taken"
        except kind as e:
            equal(e.body["type"], "invalid_request_error")
    return None


def chat_timeout(c):
    try:
        c.with_options(timeout=0.3, max_retries=0).chat.completions.create(model=MODEL, messages=user("SLOW"))
        return "no timeout"
    except openai.APITimeoutError:
        return None


async def chat_async(url):
    async with openai.AsyncOpenAI(base_url=url + "/v1", api_key="x") as c:
        rs = await asyncio.gather(*[c.chat.completions.create(model=MODEL, messages=user("THINK")) for _ in range(8)])
        equal({r.choices[0].message.content for r in rs}, {"It is 4."})
        s = await c.chat.completions.create(model=MODEL, messages=user("THINK"), stream=True)
        equal("".join([x.choices[0].delta.content or "" async for x in s]), "It is 4.")


def models(c):
    equal([m.id for m in c.models.list()], [MODEL])


# ---------------------------------------------------------------- openai, responses

def responses(c):
    r = c.responses.create(model=MODEL, input="THINK", instructions="Be short.")
    equal((r.status, r.output_text, [i.type for i in r.output]), ("completed", "It is 4.", ["reasoning", "message"]))
    equal(r.output[0].content[0].text, "Let me see.")
    equal(r.usage.total_tokens, r.usage.input_tokens + r.usage.output_tokens, "total")
    equal(r.instructions, "Be short.", "what is repeated")


def responses_stream(c):
    with c.responses.stream(model=MODEL, input="CALL", tools=R_TOOLS) as s:
        events = list(s)
        r = s.get_final_response()
    equal([e.sequence_number for e in events if hasattr(e, "sequence_number")], sorted({e.sequence_number for e in events}))
    kinds = [e.type for e in events]
    equal(kinds[:2] + kinds[-1:], ["response.created", "response.in_progress", "response.completed"])
    for kind in ("output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done",
                 "content_part.done", "output_item.done", "output_text.delta", "output_text.done",
                 "function_call_arguments.delta", "function_call_arguments.done"):
        equal("response." + kind in kinds, True, kind)
    equal([i.type for i in r.output], ["reasoning", "message", "function_call", "function_call"])
    equal(json.loads(r.output[2].arguments), {"location": "深圳"})
    done = [e.item for e in events if e.type == "response.output_item.done"]
    equal([i.id for i in done], [i.id for i in r.output], "ids of the items")
    items = [{"role": "user", "content": "CALL"}] + [i.model_dump(exclude_none=True) for i in r.output]
    items += [{"type": "function_call_output", "call_id": i.call_id, "output": "RESULT"} for i in r.output[2:]]
    equal(c.responses.create(model=MODEL, input=items, tools=R_TOOLS).output_text, "Sunny.")


def responses_custom(c):
    tools = [{"type": "custom", "name": "apply_patch", "description": "x"}]
    events = list(c.responses.create(model=MODEL, input="PATCH", tools=tools, stream=True))
    done = [e for e in events if e.type == "response.custom_tool_call_input.done"]
    equal(done[0].input, '*** Begin Patch\n"x"')
    item = events[-1].response.output[-1]
    equal((item.type, item.input), ("custom_tool_call", '*** Begin Patch\n"x"'))


def responses_logprobs(c):
    ask = {"model": MODEL, "input": "THINK", "include": ["message.output_text.logprobs"], "top_logprobs": 2}
    r = c.responses.create(**ask)
    tokens = r.output[1].content[0].logprobs
    equal(("".join(t.token for t in tokens), {len(t.top_logprobs) for t in tokens}), ("It is 4.", {2}))
    events = list(c.responses.create(stream=True, **ask))
    deltas = [t.token for e in events if e.type == "response.output_text.delta" for t in e.logprobs]
    done = [e for e in events if e.type == "response.output_text.done"][0].logprobs
    equal((deltas, [t.token for t in done]), ([t.token for t in tokens], [t.token for t in tokens]), "tokens of the stream")
    equal([t.token for t in events[-1].response.output[1].content[0].logprobs], deltas, "tokens at the end")
    equal(c.responses.create(model=MODEL, input="THINK").output[1].content[0].logprobs, None, "logprobs that nobody asked for")


def responses_cut(c):
    r = c.responses.create(model=MODEL, input="THINK", max_output_tokens=1)
    equal((r.status, r.incomplete_details.reason), ("incomplete", "max_output_tokens"))


def responses_errors(c):
    for more in ({"previous_response_id": "x"}, {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"not": {}}}}},
                 {"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}):
        try:
            c.responses.create(**{"model": MODEL, "input": "x", **more})
            return f"{more} was taken"
        except openai.BadRequestError:
            pass
    return None


# ---------------------------------------------------------------- anthropic

def messages(c):
    m = c.messages.create(model="claude-sonnet-4-5", max_tokens=100, messages=user("THINK"), system="Be short.")
    equal([b.type for b in m.content], ["thinking", "text"])
    equal((m.content[0].thinking, m.content[1].text, m.stop_reason), ("Let me see.", "It is 4.", "end_turn"))
    equal(len(m.content[0].signature) > 0, True, "signature")


def messages_tools(c):
    history = user("CALL")
    with c.messages.stream(model=MODEL, max_tokens=200, messages=history, tools=A_TOOLS) as s:
        kinds = [e.type for e in s]
        m = s.get_final_message()
    equal([b.type for b in m.content], ["thinking", "text", "tool_use", "tool_use"])
    equal(([b.input for b in m.content[2:]], m.stop_reason), ([{"location": "深圳"}, {"location": "Paris"}], "tool_use"))
    equal(kinds[0], "message_start")
    equal(m.usage.output_tokens > 10, True, "output tokens")
    history.append({"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in m.content]})
    history.append({"role": "user", "content": [{"type": "tool_result", "tool_use_id": b.id, "content": "RESULT"}
                                                for b in m.content[2:]]})
    history.append({"role": "system", "content": "Mid-conversation."})
    r = c.messages.create(model=MODEL, max_tokens=100, messages=history, tools=A_TOOLS)
    equal(r.content[-1].text, "Sunny.")


def messages_omitted(c):
    """Thinking that is not shown: blocks without its text, which come back so and stand for what was thought."""
    ask = {"model": MODEL, "max_tokens": 200, "messages": user("CALL"), "tools": A_TOOLS}
    omitted = {"extra_body": {"thinking": {"type": "adaptive", "display": "omitted"}}}
    full = c.messages.create(**ask, extra_body={"thinking": {"type": "adaptive", "display": "summarized"}})
    m = c.messages.create(**ask, **omitted)
    equal([b.type for b in m.content], [b.type for b in full.content])
    equal((m.content[0].thinking, len(m.content[0].signature) > 0, full.content[0].thinking), ("", True, "I look."))
    with c.messages.stream(**ask, **omitted) as s:
        kinds = [e.delta.type for e in s if e.type == "content_block_delta" and e.index == 0]
        streamed = s.get_final_message()
    equal(kinds, ["signature_delta"], "deltas of the thinking block")
    equal((streamed.content[0].thinking, streamed.content[0].signature), ("", m.content[0].signature))
    counts = [c.messages.count_tokens(model=MODEL, tools=A_TOOLS, messages=ask["messages"] + [
        {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in answer.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": b.id, "content": "x"}
                                     for b in answer.content if b.type == "tool_use"]}]).input_tokens for answer in (full, streamed)]
    equal(counts[1], counts[0], "tokens of a history with omitted thinking")
    try:
        c.messages.create(**ask, extra_body={"thinking": {"type": "enabled", "display": "loud"}})
        return "an unknown display was taken"
    except anthropic.BadRequestError as e:
        equal("thinking.display" in e.body["error"]["message"], True, "the refusal")


def messages_stop(c):
    m = c.messages.create(model=MODEL, max_tokens=100, messages=user("PLAIN"), stop_sequences=["wor"],
                          thinking={"type": "disabled"})
    equal((m.content[0].text, m.stop_reason, m.stop_sequence), ("Hello, ", "stop_sequence", "wor"))
    m = c.messages.create(model=MODEL, max_tokens=2, messages=user("PLAIN"), thinking={"type": "disabled"})
    equal(m.stop_reason, "max_tokens")


def messages_count(c):
    n = c.messages.count_tokens(model=MODEL, messages=user("THINK"), tools=A_TOOLS).input_tokens
    m = c.messages.create(model=MODEL, max_tokens=100, messages=user("THINK"), tools=A_TOOLS)
    equal(n, m.usage.input_tokens + m.usage.cache_read_input_tokens, "counted tokens")


def messages_attribution(c):
    counts = set()
    for line in ("a", "bbbb bbbb bbbb"):
        system = [{"type": "text", "text": f"x-anthropic-billing-header: {line}; cch=1"}, {"type": "text", "text": "Be short."}]
        counts.add(c.messages.count_tokens(model=MODEL, messages=user("x"), system=system).input_tokens)
    counts.add(c.messages.count_tokens(model=MODEL, messages=user("x"), system="Be short.").input_tokens)
    equal(len(counts), 1, f"one count: {counts}")


def messages_errors(c):
    for more in ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
                 {"messages": [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "x", "content": "y"}]}]},
                 {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, {"extra_body": {"temperature": 3}}):
        try:
            c.messages.create(**{"model": MODEL, "max_tokens": 10, "messages": user("x"), **more})
            return f"{more} was taken"
        except anthropic.BadRequestError as e:
            equal((e.body["type"], e.body["error"]["type"], e.body["request_id"][:4]), ("error", "invalid_request_error", "req_"))
    try:
        c.messages.create(model="gpt-5", max_tokens=10, messages=user("x"))
        return "an unknown model was taken"
    except anthropic.BadRequestError:
        return None


async def messages_async(url):
    async with anthropic.AsyncAnthropic(base_url=url + "/anthropic", api_key="x") as c:
        async with c.messages.stream(model=MODEL, max_tokens=100, messages=user("THINK")) as s:
            equal("".join([t async for t in s.text_stream]), "It is 4.")


def a_models(c):
    equal([m.id for m in c.models.list(limit=1000)], [MODEL])
    m = c.models.retrieve("claude-x")
    equal((m.id, m.type, m.display_name), (MODEL, "model", MODEL), "one model")


with Scripted(SCRIPT) as s:
    c = openai.OpenAI(base_url=s.url + "/v1", api_key="x")
    for name, test in (("an answer", chat), ("calls and their results", chat_tools), ("a stream of calls", chat_stream),
                       ("usage and reasoning in a stream", chat_usage), ("logprobs", chat_logprobs),
                       ("refusals", chat_errors), ("a timeout", chat_timeout), ("models", models)):
        check(f"openai, chat: {name}", lambda: test(c))
    check("openai, chat: asynchronous", lambda: asyncio.run(chat_async(s.url)))
    for name, test in (("an answer", responses), ("a stream of calls and their results", responses_stream),
                       ("a custom tool", responses_custom), ("logprobs", responses_logprobs), ("a cut answer", responses_cut), ("refusals", responses_errors)):
        check(f"openai, responses: {name}", lambda: test(c))
    a = anthropic.Anthropic(base_url=s.url + "/anthropic", api_key="x")
    for name, test in (("an answer", messages), ("a stream of calls and their results", messages_tools),
                       ("omitted thinking", messages_omitted), ("stop reasons", messages_stop), ("counting tokens", messages_count),
                       ("the attribution line", messages_attribution), ("refusals", messages_errors), ("models", a_models)):
        check(f"anthropic: {name}", lambda: test(a))
    check("anthropic: asynchronous", lambda: asyncio.run(messages_async(s.url)))
server.done()
