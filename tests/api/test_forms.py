#!/usr/bin/env python3
"""Forms that requests ask for - JSON objects, schemas, calls - through the official clients. The scripted model wants to end
at once and knows nothing else, so every token that a form leaves open is drawn by chance; the answers are valid all the
same. Then the embedded model, which has its own ideas."""
import enum
import json
import typing

import server

server.use_clients()

import anthropic
import jsonschema
import openai
import pydantic
from server import Scripted, check, equal

OFF = {"thinking": {"type": "disabled"}}
MODEL = "deepseek-v4-flash"
CITY = {"type": "object", "properties": {
    "city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 14},
    "units": {"enum": ["metric", "imperial", None]}, "legs": {"type": "array", "maxItems": 2, "items": {"type": "boolean"}}},
    "required": ["city", "days", "units", "legs"], "additionalProperties": False}
FLAG = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": False}


class Kind(str, enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Note(pydantic.BaseModel):
    kind: Kind
    count: int


class Report(pydantic.BaseModel):
    kind: Kind
    count: int
    note: typing.Optional[typing.Literal["a", "b"]]
    children: list["Report"]


def user(text="Say it as JSON."):
    return [{"role": "user", "content": text}]


def tool(name, schema, strict=True):
    return {"type": "function", "function": {"name": name, "parameters": schema, "strict": strict}}


TOOLS = [tool("forecast", CITY), tool("switch", FLAG)]


def judge_calls(calls):
    """[(name, arguments as JSON or an object)]"""
    for name, arguments in calls:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
        jsonschema.validate(value, {"forecast": CITY, "switch": FLAG}[name])


def chat(c, seed, **more):
    more = {"extra_body": OFF, "max_tokens": 3000, **more}
    return c.chat.completions.create(model=MODEL, messages=user(), seed=seed, **more).choices[0]


def objects(c):
    for seed in range(5):
        r = chat(c, seed, response_format={"type": "json_object"})
        if r.finish_reason == "stop":
            equal(isinstance(json.loads(r.message.content), dict), True, "a JSON object")
        else:
            equal((r.finish_reason, r.message.content[0]), ("length", "{"))


def schemas(c):
    form = {"type": "json_schema", "json_schema": {"name": "city", "strict": True, "schema": CITY}}
    for seed in range(5):
        r = chat(c, seed, response_format=form)
        equal(r.finish_reason, "stop")
        jsonschema.validate(json.loads(r.message.content), CITY)


def parsed(c):
    done = 0
    for seed in range(4):
        try:
            r = c.chat.completions.parse(model=MODEL, messages=user(), response_format=Report, seed=seed, max_tokens=500,
                                         extra_body=OFF).choices[0]
            done += isinstance(r.message.parsed, Report)
        except openai.LengthFinishReasonError:
            pass
    equal(done > 0, True, "some answers were parsed")


def thinking(c):
    form = {"type": "json_schema", "json_schema": {"name": "flag", "schema": FLAG}}
    r = c.chat.completions.create(model=MODEL, messages=user("THINK"), response_format=form).choices[0]
    equal(r.message.reasoning_content, "Let me see.")
    jsonschema.validate(json.loads(r.message.content), FLAG)


def forced(c):
    for seed in range(3):
        r = chat(c, seed, tools=TOOLS, tool_choice="required")
        calls = [(t.function.name, t.function.arguments) for t in r.message.tool_calls]
        equal((r.finish_reason, len(calls) > 0, r.message.content), ("tool_calls", True, ""))
        judge_calls(calls)
        r = chat(c, seed, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "switch"}},
                 parallel_tool_calls=False)
        equal([t.function.name for t in r.message.tool_calls], ["switch"])
        judge_calls([(t.function.name, t.function.arguments) for t in r.message.tool_calls])


def loose(c):
    tools = [tool("anything", {"type": "object", "properties": {"a": {"type": "integer"}}}, strict=False)]
    r = chat(c, 1, tools=tools, tool_choice="required", parallel_tool_calls=False)
    if r.finish_reason == "length":
        return
    equal([(t.function.name, isinstance(json.loads(t.function.arguments), dict)) for t in r.message.tool_calls],
          [("anything", True)])


def allowed(c):
    """Some of the tools: the prompt shows all of them, the script wants another one, and cannot have it."""
    loose_tools = [tool("forecast", CITY, strict=False), tool("switch", FLAG, strict=False)]
    for tools in (TOOLS, loose_tools):
        for mode in ("auto", "required"):
            some = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [
                {"type": "function", "function": {"name": "switch"}}]}}
            ask = {"model": MODEL, "messages": user("CALL"), "tools": tools, "extra_body": OFF, "max_tokens": 2000}
            r = c.chat.completions.create(tool_choice=some, **ask)
            names = {t.function.name for t in r.choices[0].message.tool_calls or []}
            equal(names - {"switch"}, set(), f"tools called, {mode}")
            equal(mode == "auto" or r.choices[0].finish_reason == "length" or names == {"switch"}, True, "a call")
            free = c.chat.completions.create(**ask)
            equal(r.usage.prompt_tokens, free.usage.prompt_tokens, "tokens of the prompt")
            if tools == TOOLS:
                equal(free.choices[0].message.tool_calls[0].function.name, "forecast", "with no limit")
    for wrong in ({"mode": "auto", "tools": []}, {"mode": "never", "tools": [TOOLS[0]]}, {"tools": [TOOLS[0]]},
                  {"mode": "auto", "tools": [tool("other", FLAG)]}, {"mode": "auto", "tools": "switch"}):
        try:
            c.chat.completions.create(model=MODEL, messages=user(), tools=TOOLS, extra_body=OFF,
                                      tool_choice={"type": "allowed_tools", "allowed_tools": wrong})
            raise AssertionError(f"{wrong} was taken")
        except openai.BadRequestError as e:
            equal("tool_choice" in e.body["message"], True, f"the refusal {e.body}")


def auto(c):
    """Text that mentions no call stays text; a call of the script is a call, its wrong argument is not let through."""
    r = chat(c, 1, tools=TOOLS)
    equal((r.message.content, r.finish_reason), ("", "stop"), "the scripted model ends at once, as it may")
    r = c.chat.completions.create(model=MODEL, messages=user("CALL"), tools=TOOLS, extra_body=OFF, max_tokens=2000).choices[0]
    equal((r.message.content, r.finish_reason), ("Now.", "tool_calls"))
    judge_calls([(t.function.name, t.function.arguments) for t in r.message.tool_calls])


def streamed(c):
    with c.chat.completions.stream(model=MODEL, messages=user(), tools=TOOLS, tool_choice="required", seed=3,
                                   max_tokens=3000, extra_body=OFF) as s:
        for _ in s:
            pass
        calls = s.get_final_completion().choices[0].message.tool_calls
    judge_calls([(t.function.name, t.function.arguments) for t in calls])


def responses(c):
    off = {"reasoning": {"effort": "none"}}
    form = {"format": {"type": "json_schema", "name": "city", "strict": True, "schema": CITY}}
    jsonschema.validate(json.loads(c.responses.create(model=MODEL, input="x", text=form, **off).output_text), CITY)
    tools = [{"type": "function", "name": t["function"]["name"], "parameters": t["function"]["parameters"], "strict": True}
             for t in TOOLS]
    some = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "switch"}]}
    r = c.responses.create(model=MODEL, input="x", tools=tools, tool_choice=some, parallel_tool_calls=False, **off)
    equal([i.name for i in r.output], ["switch"], "the one that is allowed")
    r = c.responses.create(model=MODEL, input="x", tools=tools, tool_choice="required", parallel_tool_calls=False, **off)
    equal(([i.type for i in r.output], r.parallel_tool_calls), (["function_call"], False))
    judge_calls([(i.name, i.arguments) for i in r.output])
    r = c.responses.create(model=MODEL, input="x", tools=tools, tool_choice={"type": "function", "name": "switch"}, **off)
    equal({i.name for i in r.output}, {"switch"})


def messages(a):
    tools = [{"name": t["function"]["name"], "input_schema": t["function"]["parameters"], "strict": True} for t in TOOLS]
    ask = {"model": MODEL, "max_tokens": 3000, "messages": user(), "tools": tools, **OFF}
    for choice, names in (({"type": "any"}, {"forecast", "switch"}), ({"type": "tool", "name": "forecast"}, {"forecast"}),
                          ({"type": "any", "disable_parallel_tool_use": True}, {"forecast", "switch"})):
        m = a.messages.create(tool_choice=choice, **ask)
        equal((m.stop_reason, {b.type for b in m.content}, {b.name for b in m.content} <= names),
              ("tool_use", {"tool_use"}, True))
        if "disable_parallel_tool_use" in choice:
            equal(len(m.content), 1, "calls")
        judge_calls([(b.name, b.input) for b in m.content])
    ask.pop("thinking") # where a request says nothing of thinking, a forced call switches it off, as Anthropic's default is
    m = a.messages.create(tool_choice={"type": "tool", "name": "forecast"}, extra_body={"output_config": {"effort": "low"}}, **ask)
    equal((m.stop_reason, {b.type for b in m.content}, {b.name for b in m.content}), ("tool_use", {"tool_use"}, {"forecast"}))
    m = a.messages.create(model=MODEL, max_tokens=2000, messages=user(), extra_body={
        **OFF, "output_config": {"format": {"type": "json_schema", "schema": CITY}}})
    jsonschema.validate(json.loads(m.content[0].text), CITY)


def refusals(c, a):
    schema = {"type": "object", "properties": {"a": {"not": {}}}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for more, text in (({"response_format": form}, "at '#/properties/a': the keyword 'not' is not supported"),
                       ({"tools": [tool("f", schema)]}, "tool 'f': at '#/properties/a': the keyword 'not'"),
                       ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
                       ({"tool_choice": "required"}, "there are no tools"),
                       ({"tools": TOOLS, "tool_choice": "required", "extra_body": {}}, "Thinking mode does not support")):
        try:
            chat(c, 1, **more)
            return f"{more} was taken"
        except openai.BadRequestError as e:
            equal(text in e.body["message"], True, f"{text!r} in {e.body['message']!r}")
    for thinking in ({"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}):
        try:
            a.messages.create(model=MODEL, max_tokens=2000, messages=user(), tool_choice={"type": "any"}, thinking=thinking,
                              tools=[{"name": "f", "input_schema": FLAG}])
            return "a forced call while thinking was taken"
        except anthropic.BadRequestError as e:
            equal("Thinking mode" in e.body["error"]["message"], True, "the refusal")


def embedded():
    with server.Serve() as s:
        server.wait_ready(s.port)
        c = openai.OpenAI(base_url=f"http://127.0.0.1:{s.port}/v1", api_key="x")
        r = c.chat.completions.parse(model=MODEL, messages=user("A report as JSON."), response_format=Note, seed=1,
                                     max_tokens=800, extra_body=OFF, temperature=0).choices[0].message.parsed
        equal(isinstance(r, Note), True, "a parsed answer")
        a = anthropic.Anthropic(base_url=f"http://127.0.0.1:{s.port}/anthropic", api_key="x")
        m = a.messages.create(model=MODEL, max_tokens=800, messages=user("Turn it on."), **OFF, tool_choice={
            "type": "tool", "name": "switch", "disable_parallel_tool_use": True},
                              tools=[{"name": "switch", "input_schema": FLAG, "strict": True}])
        judge_calls([(b.name, b.input) for b in m.content])


CALL = ('Now.\n\n<｜DSML｜tool_calls>\n<｜DSML｜invoke name="forecast">\n<｜DSML｜parameter name="city" string="true">Rome'
        '</｜DSML｜parameter>\n<｜DSML｜parameter name="days" string="false">99</｜DSML｜parameter>\n')
with Scripted([{"when": "THINK", "reply": "Let me see.</think>"}, {"when": "CALL", "reply": CALL}, {"when": "", "reply": ""}]) as s:
    c = openai.OpenAI(base_url=s.url + "/v1", api_key="x", max_retries=0)
    a = anthropic.Anthropic(base_url=s.url + "/anthropic", api_key="x", max_retries=0)
    for name, test in (("JSON objects", objects), ("schemas", schemas), ("parse()", parsed), ("a schema after thinking", thinking),
                       ("forced calls", forced), ("forced calls without a schema", loose), ("calls by choice", auto), ("calls of some of the tools", allowed),
                       ("a stream of forced calls", streamed), ("Responses", responses)):
        check(f"openai: {name}", lambda: test(c))
    check("anthropic: forced calls and schemas", lambda: messages(a))
    check("refusals", lambda: refusals(c, a))
check("the embedded model", embedded)
server.done()
