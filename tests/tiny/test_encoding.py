#!/usr/bin/env python3
"""The trainer's chat encoder writes the official format byte for byte.  TAP; standard library only."""
import hashlib, json, os, sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..', 'tools', 'train_tiny'))
import encoding as e

B, U, A, D, END = e.BOS, e.USER, e.ASSISTANT, e.DSML, e.EOS
user = lambda t: dict(role='user', content=t)
says = lambda t, why='': dict(role='assistant', content=t, reasoning_content=why)
tool = dict(name='f', description='d', parameters=dict(type='object', properties=dict(x=dict(type='integer')), required=['x']))
call = dict(role='assistant', content='', reasoning_content='r', tool_calls=[dict(name='f', arguments=dict(x=1, s='a "b" <c>'))])
CASES = [
    ('one question', e.text([user('Hi')]), f'{B}{U}Hi{A}</think>'),
    ('thinking', e.text([user('Hi')], thinking=True), f'{B}{U}Hi{A}<think>'),
    ('high effort adds nothing', e.text([user('Hi')], thinking=True, effort='high'), f'{B}{U}Hi{A}<think>'),
    ('system and answer', e.text([dict(role='system', content='S'), user('Hi'), says('Ho')]), f'{B}S{U}Hi{A}</think>Ho{END}'),
    ('earlier thinking is dropped', e.text([user('a'), says('b', 'x'), user('c'), says('d', 'y')], thinking=True),
     f'{B}{U}a{A}</think>b{END}{U}c{A}<think>y</think>d{END}'),
    ('tool call and result', e.text([user('q'), call, dict(role='tool', content='{"y": 2}'), says('z', 'w')], thinking=True, tools=[tool])[len(B) + 2:].replace(e.tools_block([tool]), '#'),
     f'#{U}q{A}<think>r</think>\n\n<{D}tool_calls>\n<{D}invoke name="f">\n<{D}parameter name="x" string="false">1</{D}parameter>\n'
     f'<{D}parameter name="s" string="true">a "b" <c></{D}parameter>\n</{D}invoke>\n</{D}tool_calls>{END}{U}<tool_result>{{"y": 2}}</tool_result>{A}<think>w</think>z{END}'),
    ('schema line', e.tools_block([tool]).splitlines()[-3], '{"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}}'),
    ('tools template', hashlib.sha256(e.TOOLS.replace('{d}', '{dsml_token}').replace('{t}', '{thinking_start_token}').replace('{e}', '{thinking_end_token}').replace('{schemas}', '{tool_schemas}').encode()).hexdigest()[:16], '09b7269daaddbeaf'),
    ('response format template', hashlib.sha256(e.RESPONSE_FORMAT.encode()).hexdigest()[:16], '012f31fcc1338bdf'),
    ('effort text', hashlib.sha256(e.EFFORT_MAX.encode()).hexdigest()[:16], 'f7a24f3b3050d4a8'),
    ('task', e.text([dict(role='user', content='q', task='action'), says('Search')]), f'{B}{U}q{A}</think><｜action｜>Search{END}'),
]
DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'data', 'encoding')
for i in (1, 2, 3, 4):
    with open(f'{DATA}/test_input_{i}.json') as f, open(f'{DATA}/test_output_{i}.txt', newline='') as g:
        x, want = json.load(f), g.read()
    x = x if isinstance(x, dict) else dict(messages=x)
    CASES.append((f'official case {i}', e.text(x['messages'], thinking=i < 4, tools=x.get('tools')), want))
failed = 0
for i, (name, got, want) in enumerate(CASES, 1):
    failed += got != want
    print('ok' if got == want else 'not ok', i, '- chat format:', name)
    if got != want:
        print('#', repr(got), '\n#', repr(want))
print(f'1..{len(CASES)}')
sys.exit(failed > 0)
