"""The DeepSeek-V4 chat format, as far as training needs it: messages -> prompt text, cut into pieces.

`pieces(...)` returns [(text, spoken)]: `spoken` marks what the model itself writes (an assistant turn after its
`<think>` or `</think>` up to and including the end token), so that the loss can be put there.  The joined text is
the official prompt byte for byte; test_encoding.py checks that on transcripts of the format.
"""
import json

BOS, EOS, PAD = '<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜▁pad▁｜>'
USER, ASSISTANT, REMINDER = '<｜User｜>', '<｜Assistant｜>', '<｜latest_reminder｜>'
THINK, END_THINK, DSML = '<think>', '</think>', '｜DSML｜'
TASKS = {t: f'<｜{t}｜>' for t in ('action', 'query', 'authority', 'domain', 'title', 'read_url')}

TOOLS = """## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<{d}tool_calls>" block like the following:

<{d}tool_calls>
<{d}invoke name="$TOOL_NAME">
<{d}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{d}parameter>
...
</{d}invoke>
<{d}invoke name="$TOOL_NAME2">
...
</{d}invoke>
</{d}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {t}), you MUST output your complete reasoning inside {t}...{e} BEFORE any tool calls or final response.

Otherwise, output directly after {e} with tool calls or final response.

### Available Tool Schemas

{schemas}

You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""

RESPONSE_FORMAT = '## Response Format:\n\nYou MUST strictly adhere to the following schema to reply:\n{schema}'

EFFORT_MAX = ('Reasoning Effort: Absolute maximum with no shortcuts permitted.\n'
    'You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root cause, '
    'rigorously stress-testing your logic against all potential paths, edge cases, and adversarial scenarios.\n'
    'Explicitly write out your entire deliberation process, documenting every intermediate step, considered alternative, '
    'and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n')


def dumps(x): return json.dumps(x, ensure_ascii=False)


def tools_block(tools):
    return TOOLS.format(d=DSML, t=THINK, e=END_THINK, schemas='\n'.join(dumps(t.get('function', t)) for t in tools))


def calls_block(calls):
    """calls: [{'name':, 'arguments': JSON text or dict}] (an OpenAI `function` wrapper is accepted)."""
    out = []
    for c in calls:
        c = c.get('function', c)
        a = c['arguments']
        a = json.loads(a) if isinstance(a, str) else a
        par = [f'<{DSML}parameter name="{k}" string="{"true" if isinstance(v, str) else "false"}">'
               f'{v if isinstance(v, str) else dumps(v)}</{DSML}parameter>' for k, v in a.items()]
        out.append(f'<{DSML}invoke name="{c["name"]}">\n' + '\n'.join(par) + f'\n</{DSML}invoke>')
    return f'<{DSML}tool_calls>\n' + '\n'.join(out) + f'\n</{DSML}tool_calls>'


def merge_tool_results(messages):
    """Tool messages become user messages; a user text right after a tool result joins it."""
    out = []
    for m in messages:
        if m['role'] == 'tool':
            block = f'<tool_result>{m["content"]}</tool_result>'
            if out and out[-1].get('_blocks'):
                out[-1]['_blocks'].append(block)
            else:
                out.append({'role': 'user', '_blocks': [block]})
        elif m['role'] == 'user':
            if out and out[-1].get('_blocks') and not out[-1].get('task'):
                out[-1]['_blocks'].append(m['content'])
                out[-1]['task'] = m.get('task')
            else:
                out.append({'role': 'user', '_blocks': [m['content']], 'task': m.get('task')})
        else:
            out.append(dict(m))
    return out


def pieces(messages, thinking=False, tools=None, effort=None):
    messages = [dict(m) for m in messages]
    if tools:
        if messages[0]['role'] != 'system':
            messages.insert(0, {'role': 'system', 'content': ''})
        messages[0]['tools'] = tools
    messages = merge_tool_results(messages)
    drop = not any(m.get('tools') for m in messages)
    last = max((i for i, m in enumerate(messages) if m['role'] in ('user', 'developer')), default=-1)
    if thinking and drop:
        messages = [m for i, m in enumerate(messages) if i >= last or m['role'] != 'developer']
        last = max((i for i, m in enumerate(messages) if m['role'] in ('user', 'developer')), default=-1)
    out = [(BOS, 0)]
    if thinking and effort == 'max':
        out.append((EFFORT_MAX, 0))
    for i, m in enumerate(messages):
        role, prev = m['role'], messages[i - 1] if i else {}
        if role == 'assistant':
            text = ''
            if thinking and not prev.get('task') and (not drop or i > last):
                text = (m.get('reasoning_content') or '') + END_THINK
            text += m.get('content') or ''
            if m.get('tool_calls'):
                text += '\n\n' + calls_block(m['tool_calls'])
            out.append((text + ('' if m.get('wo_eos') else EOS), 1))
        else:
            text = m.get('content') or ''
            if role == 'user':
                text = USER + '\n\n'.join(m['_blocks'])
            elif role == 'developer':
                text = USER + text
            elif role == 'latest_reminder':
                text = REMINDER + text
            if m.get('tools'):
                text += '\n\n' + tools_block(m['tools'])
            if m.get('response_format'):
                text += '\n\n' + RESPONSE_FORMAT.format(schema=dumps(m['response_format']))
            out.append((text, 0))
        if i + 1 < len(messages) and messages[i + 1]['role'] not in ('assistant', 'latest_reminder'):
            continue
        if m.get('task'):
            head = ASSISTANT + (THINK if thinking else END_THINK) if m['task'] == 'action' else ''
            out.append((head + TASKS[m['task']], 0))
        elif role in ('user', 'developer'):
            out.append((ASSISTANT + (THINK if thinking and (not drop or i >= last) else END_THINK), 0))
    return out


def text(messages, **kw):
    return ''.join(t for t, _ in pieces(messages, **kw))
