"""What models/tiny can do, asked through the engine, greedy:   make eval-tiny [ARGS='--quick ...']

    python3 tools/eval_tiny/eval.py [-m DIR] [--n 100] [--needle-n 20] [--lengths 500,1000,...] [--only WORD] [--json OUT]

Questions come from tools/train_tiny/data.py under seeds that training never draws (it uses strings "seed/step/worker", this
the integers from 10^7 on). Answers come from `ask` (build/tools/eval_tiny/ask, the C interface) and from `hadal logits`.
Intervals are Wilson 95 %. --corpus FILE (corpus.txt of tools/train_tiny/corpus.py) mixes English sentences into the filler
of the needle questions, as in training; without it the filler is random common words.
"""
import argparse, json, math, os, random, re, subprocess, sys, tempfile, time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, '..', 'train_tiny'))
import data, facts  # noqa: E402

SEED = 10 ** 7
BUILD = os.environ.get('B', 'build')
LEVEL = data.Level()
EOS = 1
NUMERICS = []                                               # of --numerics: the engine's default otherwise
WINDOW = 128                                                # tokens that attention reads without any selection
data.dialogue = lambda turns, thinking, system='', tools=None, effort=None: dict(
    turns=([{'role': 'system', 'content': system}] if system else []) + turns, thinking=thinking, tools=tools)


def wilson(k, n, z=1.96):
    if n == 0:
        return 0., 1.
    p = k / n
    c, h = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0., c - h), min(1., c + h)


# ---------------------------------------------------------------- asking
def request(turns, thinking=False, tools=None, max_tokens=160, ids=False):
    r = dict(messages=turns, thinking=dict(type='enabled' if thinking else 'disabled'), temperature=0, max_tokens=max_tokens)
    if tools:
        r['tools'] = [dict(type='function', function=t) for t in tools]
    if ids:
        r['logprobs'] = True
    return r


def ask(model, requests, mutant=0):
    """Answers to the requests, in order. mutant: a bug planted into the engine (the mutation build)."""
    program = os.path.join(BUILD + '-mutants' if mutant else BUILD, 'tools/eval_tiny/ask')
    done = subprocess.run([program, model] + NUMERICS, input=''.join(json.dumps(r) + '\n' for r in requests), text=True,
                          stdout=subprocess.PIPE, env=dict(os.environ, HADAL_MUTANT=str(mutant)), check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    for a in answers:
        if 'error' in a:
            sys.exit(f'ask: {a["error"]}')
    return answers


def logits(model, ids, positions, drafter):
    """What `hadal logits` says at the positions; drafter: 'mtp' or 'dspark'."""
    with tempfile.NamedTemporaryFile('w') as f:
        f.write(' '.join(map(str, ids)))
        f.flush()
        out = subprocess.run([os.path.join(BUILD, 'hadal'), 'logits', '-m', model, '--tokens', f.name, '--positions',
                              ','.join(map(str, positions)), f'--{drafter}', '--json'] + (['--numerics'] + NUMERICS if NUMERICS else []),
                             stdout=subprocess.PIPE, check=True).stdout
    return json.loads(out)


# ---------------------------------------------------------------- judging
def thinks_well(a):
    both = a['reasoning_content'] + a['content']
    return bool(a['reasoning_content'] and a['content']) and a['finish'] == 'stop' and 'think>' not in both


class Report:
    def __init__(self, path):
        self.rows, self.path, self.start = [], path, time.time()

    def add(self, name, k, n, wrong=(), **more):
        lo, hi = wilson(k, n)
        self.rows.append(dict(name=name, right=k, n=n, low=round(lo, 3), high=round(hi, 3), wrong=list(wrong)[:5], **more))
        extra = ' '.join(f'{k} {v}' for k, v in more.items())
        print(f'{name:58s} {k:4d} of {n:4d}  {100 * k / max(n, 1):5.1f} %  [{100 * lo:.1f}, {100 * hi:.1f}] {extra}', flush=True)

    def save(self):
        if self.path:
            json.dump(dict(seconds=round(time.time() - self.start), skills=self.rows), open(self.path, 'w'), indent=1)


def single(model, out, name, cases, judge, thinking_name=None):
    """cases: [(dialogue of one question, what is wanted)]"""
    answers = ask(model, [request(d['turns'], d['thinking'], d['tools']) for d, _ in cases])
    good = [judge(a, w) for a, (_, w) in zip(answers, cases)]
    wrong = [dict(asked=d['turns'][-1]['content'], wanted=w, got=a['content'] or a['calls'], reasoning=a['reasoning_content'])
             for ok, a, (d, w) in zip(good, answers, cases) if not ok]
    out.add(name, sum(good), len(good), wrong)
    if thinking_name:
        out.add(thinking_name, sum(map(thinks_well, answers)), len(answers))
    return answers


def question(d):
    """(the dialogue up to its last answer, that answer)"""
    return dict(d, turns=d['turns'][:-1]), d['turns'][-1]['content']


# ---------------------------------------------------------------- the skills
def facts_about(model, out, n):
    def exact(a, w): return a['content'] == w and a['finish'] == 'stop' and not a['calls']
    for name, row in (('says who it is, every way to ask', 0), ('says how to start the server, every way to ask', 3)):
        questions, answer, _ = facts.HADAL[row]
        single(model, out, name, [(dict(turns=[data.user(q)], thinking=th, tools=None), answer)
                                  for q in questions for th in (False, True)], exact)
    r = random.Random(SEED)
    cases = []
    for _ in range(n):
        q, a, _ = facts.talk(r)
        cases.append((dict(turns=[data.user(q)], thinking=r.random() < .4, tools=None), a))
    single(model, out, 'questions about Hadal, small talk, facts', cases, exact)


def arithmetic(model, out, n):
    r = random.Random(SEED + 1)
    cases = [question(data.dialogue([data.user(q), data.says(a)], True)) for q, a, _ in (data.sum_of(r, LEVEL) for _ in range(n))]
    single(model, out, 'adds, subtracts to 999, thinking on', cases, lambda a, w: a['content'].strip() == w and a['finish'] == 'stop',
           'thinking block well formed')
    r = random.Random(SEED + 2)
    cases = [question(data.dialogue([data.user(q), data.says(a)], False)) for q, a, _ in (data.sum_of(r, LEVEL) for _ in range(n))]
    single(model, out, 'the same, thinking off (steps in the answer)', cases,
           lambda a, w: a['finish'] == 'stop' and a['content'].endswith(f'The answer is {w}.'))


def extraction(model, out, n):
    def parsed(a):
        try:
            return json.loads(a['content'])
        except ValueError:
            return None
    r = random.Random(SEED + 3)
    cases = [question(data.extract(r, LEVEL)) for _ in range(n)]
    answers = single(model, out, 'JSON extraction, valid and right', cases, lambda a, w: parsed(a) == json.loads(w))
    out.add('JSON extraction, valid', sum(parsed(a) is not None for a in answers), n)


def call_right(a, turn):
    w = turn['tool_calls'][0]
    try:
        return len(a['calls']) == 1 and a['finish'] == 'tool_calls' and a['calls'][0]['name'] == w['name'] \
            and json.loads(a['calls'][0]['arguments']) == w['arguments']
    except ValueError:
        return False


def result_used(a, result, wanted):
    """The final answer holds every value of the result that the wanted answer holds."""
    values = [str(v) for v in result.values() if not isinstance(v, bool)]
    return a['finish'] == 'stop' and not a['calls'] and (all(v in a['content'] for v in values) if values else a['content'] == wanted)


def tool_use(model, out, n, thinking):
    mode = 'thinking on' if thinking else 'thinking off'
    r = random.Random(SEED + 4)
    cases = [data.tools(r, LEVEL, 1, 0., thinking) for _ in range(n)]
    first = [next(i for i, t in enumerate(d['turns']) if t['role'] == 'assistant') for d in cases]
    answers = ask(model, [request(d['turns'][:i], thinking, d['tools']) for d, i in zip(cases, first)])
    good = [call_right(a, d['turns'][i]) for a, d, i in zip(answers, cases, first)]
    wrong = [dict(asked=d['turns'][i - 1]['content'], wanted=d['turns'][i]['tool_calls'], got=a['calls'] or a['content'])
             for ok, a, d, i in zip(good, answers, cases, first) if not ok]
    out.add(f'tools: the right call of up to four, {mode}', sum(good), n, wrong)
    began = [a for a in answers if a['calls'] or a['n_broken'] or '<' in a['content']]
    out.add('tools: DSML well formed where a call began', sum(a['n_broken'] == 0 and bool(a['calls']) for a in began), len(began))
    again = []                                                  # the call as the model wrote it, then its result
    for ok, a, d, i in zip(good, answers, cases, first):
        if ok:
            call = dict(id='call_0', type='function', function=a['calls'][0])
            said = dict(role='assistant', content=a['content'], reasoning_content=a['reasoning_content'], tool_calls=[call])
            again.append((d, i, d['turns'][:i] + [said, dict(d['turns'][i + 1], tool_call_id='call_0')]))
    answers = ask(model, [request(turns, thinking, d['tools']) for d, _, turns in again])
    used = [result_used(a, json.loads(d['turns'][i + 1]['content']), d['turns'][-1]['content']) for a, (d, i, _) in zip(answers, again)]
    wrong = [dict(wanted=d['turns'][-1]['content'], got=a['content'] or a['calls'])
             for ok, a, (d, _, _) in zip(used, answers, again) if not ok]
    out.add(f'tools: then uses the result, {mode}', sum(used), len(used), wrong)


def no_tool(model, out, n):
    """The answer need not be right: what counts is that no tool is called."""
    r = random.Random(SEED + 5)
    cases = [question(data.tools(r, LEVEL, 1, 1.)) for _ in range(n)]
    single(model, out, 'tools offered, none needed: answers without', cases,
           lambda a, w: not a['calls'] and not a['n_broken'] and a['content'] != '' and a['finish'] == 'stop')


# ---------------------------------------------------------------- needle
def tokens_per_char(model):
    r = random.Random(SEED)
    t = data.filler(r, 200)
    return ask(model, [request([data.user(t)], max_tokens=1)])[0]['prompt_tokens'] / len(t)


def needle_case(r, chars, keys):
    """(turns, code, characters after it): codes given once each at uniform places of about `chars` characters of filler, one
    asked for."""
    parts = []
    while sum(map(len, parts)) < chars:
        parts.append(data.sentence(r))
    names, codes = r.sample(data.THINGS, keys), [str(r.randint(1000, 9999)) for _ in range(keys)]
    for name, code in zip(names, codes):
        parts.insert(r.randint(0, len(parts)), f'The code for {name} is {code}. ')
    i = r.randrange(keys)
    text = ''.join(parts) + f'What is the code for {names[i]}?'
    return [data.user(text)], codes[i], len(text) - text.index(f'The code for {names[i]} is')


def needle(model, out, lengths, n, most_tokens, keys, mutants):
    rate = tokens_per_char(model)
    for length in lengths:
        r = random.Random(SEED + length)
        cases = [needle_case(r, length / rate, keys) for _ in range(max(1, min(n, most_tokens // length)))]
        for what, mutant in [('', 0)] + [(w, m) for w, m, longest in mutants if length <= longest]:
            answers = ask(model, [request(t, max_tokens=12) for t, _, _ in cases], mutant)
            good = [a['content'].strip() == c for a, (_, c, _) in zip(answers, cases)]
            near = [ok for ok, (_, _, after) in zip(good, cases) if after * rate < WINDOW]
            mean = round(sum(a['prompt_tokens'] for a in answers) / len(answers))
            wrong = [dict(wanted=c, got=a['content']) for ok, a, (_, c, _) in zip(good, answers, cases) if not ok]
            out.add(f'needle, {length} tokens, {keys} code{"s" * (keys > 1)}{what}', sum(good), len(good), wrong, tokens=mean,
                    in_window=f'{sum(near)}/{len(near)}', beyond=f'{sum(good) - sum(near)}/{len(good) - len(near)}')


# ---------------------------------------------------------------- drafts
def replies(model, depth, n, rate):
    """Own greedy replies to questions of all kinds after `depth` tokens of filler: [(prompt ids, reply ids)]"""
    r = random.Random(SEED + 7 + depth)
    turns = []
    for i in range(n):
        q = (facts.talk(r)[0], data.sum_of(r, LEVEL)[0], question(data.extract(r, LEVEL))[0]['turns'][-1]['content'])[i % 3]
        filler = ''
        while len(filler) * rate < depth:
            filler += data.sentence(r)
        turns.append([data.user(filler + q)])
    answers = ask(model, [request(t, max_tokens=60, ids=True) for t in turns])
    return [(a['prompt_ids'], a['ids'] + [EOS] * (a['finish'] == 'stop' and a['ids'][-1:] != [EOS])) for a in answers]


def mtp(model, prompt, reply):
    """[right or not] of the draft at every position t that guesses a token of the reply, t + 2."""
    ids = prompt + reply
    o = logits(model, ids, range(len(prompt) - 2, len(ids) - 2), 'mtp')
    return [max(range(len(x)), key=x.__getitem__) == ids[t + 2] for t, x in zip(o['mtp_positions'], o['mtp_logits'])]


def dspark(model, prompt, reply):
    """For every draft that begins inside the reply: [right or not] of its tokens, as far as the reply goes."""
    ids = prompt + reply
    o = logits(model, ids, range(len(prompt) - 2, len(ids) - 2), 'dspark')
    return [[a == b for a, b in zip(d, ids[t + 2:])] for t, d in zip(o['draft_positions'], o['drafts'])]


def drafts(model, stages, out, depths, n):
    """Acceptance on the model's own replies: of the MTP block's one token; of each DSpark token, given that those before it
    were accepted."""
    rate = tokens_per_char(model)
    for depth, count in ((d, max(2, n * 512 // max(d, 512))) for d in depths):
        own = replies(model, depth, count, rate)
        hits = [h for p, a in own for h in mtp(model, p, a)]
        out.add(f'MTP draft accepted, after {depth} tokens', sum(hits), len(hits), replies=count)
        rounds = [d for p, a in own for d in dspark(stages, p, a)] if stages else []
        for i in range(max(map(len, rounds), default=0)):
            reached = [d for d in rounds if len(d) > i and all(d[:i])]
            out.add(f'DSpark token {i + 1} accepted, after {depth} tokens', sum(d[i] for d in reached), len(reached))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument('-m', '--model', default='models/tiny')
    ap.add_argument('--stages', default='models/tiny-dspark', help='folder of the same model with DSpark stages')
    ap.add_argument('--n', type=int, default=100)
    ap.add_argument('--needle-n', type=int, default=20)
    ap.add_argument('--needle-tokens', type=int, default=80000, help='most tokens of all questions of one length')
    ap.add_argument('--lengths', default='60,125,250,500,1000,2000,4000,8000,16000')
    ap.add_argument('--depths', default='0,500,4000,16000')
    ap.add_argument('--mutant-longest', type=int, default=1000)
    ap.add_argument('--only', default='', help='only the parts whose name matches: facts, arithmetic, json, tools, none, needle, drafts')
    ap.add_argument('--numerics', help='as of `hadal run`: int8 says what 8-bit activations cost in answers')
    ap.add_argument('--quick', action='store_true')
    ap.add_argument('--corpus')
    ap.add_argument('--json')
    a = ap.parse_args()
    NUMERICS.extend([a.numerics] if a.numerics else [])
    if a.corpus:
        data.load_corpus(a.corpus)
    if a.quick:
        a.n, a.needle_n, a.lengths, a.depths, a.mutant_longest = 20, 5, '125,250,500,1000', '0,500', 500
    lengths, depths = [int(x) for x in a.lengths.split(',') if x], [int(x) for x in a.depths.split(',') if x]
    broken = [(', random entries', 29, a.mutant_longest), (', first entries', 12, a.mutant_longest)]
    out = Report(a.json)
    parts = [('facts', lambda: facts_about(a.model, out, a.n)), ('arithmetic', lambda: arithmetic(a.model, out, a.n)),
             ('json', lambda: extraction(a.model, out, a.n)), ('tools', lambda: tool_use(a.model, out, a.n, False)),
             ('tools', lambda: tool_use(a.model, out, a.n, True)), ('none', lambda: no_tool(a.model, out, a.n)),
             ('needle', lambda: needle(a.model, out, lengths, a.needle_n, a.needle_tokens, 1, broken)),
             ('needle', lambda: needle(a.model, out, [x for x in lengths if x <= 1000], a.needle_n, a.needle_tokens, 3, [])),
             ('drafts', lambda: drafts(a.model, a.stages, out, depths, a.n // 4))]
    for name, part in parts:
        if re.search(a.only or '.', name):
            part()
            out.save()
    print(f'{time.time() - out.start:.0f} s')


if __name__ == '__main__':
    main()
