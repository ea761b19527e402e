"""The skills, generated from a seed, in the official chat format.

A generator takes a random.Random and a Level (how long, how hard) and returns the pieces of one conversation:
[(text, trained)].  Everything an assistant says is trained.  `rows` packs conversations into token rows.
"""
import json
import re
import numpy as np
import encoding
from facts import casual, talk

NAMES = ('Anna Ben Clara David Emma Felix Grace Henry Ines Jonas Karla Leo Maria Nils Olga Paul Rosa Simon Tina Viktor Alice Bob Carol Daniel Eva '
         'Frank George Hanna Ivan Julia Kevin Laura Martin Nora Oscar Peter Robert Sarah Thomas Walter').split()
CITIES = ('Berlin Paris London Madrid Rome Vienna Oslo Lisbon Prague Dublin Athens Warsaw Tokyo Cairo Lima Delhi Moscow Beijing Sydney Boston Chicago '
          'Seattle Toronto Munich Hamburg Milan Geneva Zurich Helsinki Stockholm Copenhagen Budapest Bern Lyon Porto Osaka Seoul Nairobi Havana Denver').split()
THINGS = ('amber copper silver golden crimson violet indigo maple cedar willow falcon otter badger lynx heron raven comet meteor harbor lantern anchor '
          'compass marble granite velvet cotton ember cinder meadow canyon glacier island tiger eagle river forest castle bridge garden window').split()
TOPICS = ('budget meeting holiday report garden invoice concert dinner project birthday contract picnic lecture survey parcel rent car bike house '
          'party school music paper lunch photos tickets keys flowers books wine').split()
WORDS = ('the a of to and in is it that was for on are with as his they at be this from have or by one had not but what all were when we there can an '
         'your which their said if do will each about how up out them then she many some so these would other into has more her two like him see time '
         'could no make than first been its who now people my made over did down only way find use may water long little very after words called just '
         'where most know get through back much before go good new write our used me man too any day same right look think also around another came '
         'come work three word must because does part even place well such here take why things help put years different away again off went old number '
         'great tell men say small every found still between name should home big give air line set own under read last never us left end along while '
         'might next sound below saw something thought both few those always looked show large often together asked house world going want').split()


class Level:
    """What the generators may ask for; the trainer moves it with the schedule."""
    def __init__(self, needle=(0, 12), keys=(1, 4), asks=6, hi=999, rounds=3, rename=0., after=0):
        self.needle, self.keys, self.asks, self.hi, self.rounds, self.rename, self.after = needle, keys, asks, hi, rounds, rename, after


def dialogue(turns, thinking, system='', tools=None, effort=None):
    """turns: messages without system."""
    ms = ([{'role': 'system', 'content': system}] if system else []) + turns
    return encoding.pieces(ms, thinking=thinking, tools=tools, effort=effort)


def user(t): return {'role': 'user', 'content': t}


def says(t, why=''): return {'role': 'assistant', 'content': t, 'reasoning_content': why}


SYSTEMS = ['You are a helpful assistant.', 'You are a helpful assistant.', 'You are Hadal.', 'Answer briefly.', 'You are a friendly assistant.']


def some_system(r): return r.choice(SYSTEMS) if r.random() < .25 else ''


def some_effort(r, thinking): return 'max' if thinking and r.random() < .02 else None


# ---------------------------------------------------------------- dialogue
def faq(r, lv):
    th, ms = r.random() < .4, []
    for _ in range(r.choice((1, 1, 2, 3))):
        q, a, t = talk(r)
        ms += [user(q), says(a, t)]
    return dialogue(ms, th, some_system(r), effort=some_effort(r, th))


# ---------------------------------------------------------------- arithmetic
def working(a, b, minus):
    """The written method, from the last digit: every line holds one column, `carry` included."""
    w = max(len(str(a)), len(str(b)))
    x, y, c, lines = str(a).zfill(w), str(b).zfill(w), 0, []
    lines.append(f'{x} {"-" if minus else "+"} {y}')
    for i in range(w - 1, -1, -1):
        p, q = int(x[i]), int(y[i])
        if minus:
            v = p - q - c
            lines.append(f'{p}-{q}-{c}={v % 10}' + (', borrow 1' if v < 0 else ''))
            c = int(v < 0)
        else:
            v = p + q + c
            lines.append(f'{p}+{q}+{c}={v % 10}' + (', carry 1' if v > 9 else ''))
            c = int(v > 9)
    return '\n'.join(lines)


ASK_SUM = ['What is {a}{o}{b}?', 'What is {a} {o} {b}?', 'Compute {a} {o} {b}.', 'Please calculate {a} {o} {b}.', '{a} {o} {b} = ?', '{a}{o}{b}=', '{a} {o} {b}',
           'How much is {a} {w} {b}?', 'What is {a} {w} {b}?', 'Calculate {a} {w} {b}.']


def sum_of(r, lv):
    hi = r.choice((9, 99, lv.hi, lv.hi, lv.hi))
    a, b, minus = r.randint(0, hi), r.randint(0, r.choice((hi, hi, lv.hi))), r.random() < .5
    if minus and b > a:
        a, b = b, a
    q = r.choice(ASK_SUM).format(a=a, b=b, o='-' if minus else '+', w='minus' if minus else 'plus')
    return q, str(a - b if minus else a + b), working(a, b, minus)


def arithmetic(r, lv, thinking=None):
    """With thinking on the working is the thinking; with thinking off it is the start of the answer."""
    th = r.random() < .75 if thinking is None else thinking
    ms = []
    for _ in range(1 if th else r.choice((1, 2, 2))):
        q, res, work = sum_of(r, lv)
        ms += [user(casual(r, q)), says(res, work) if th else says(f'{work}\nThe answer is {res}.')]
    return dialogue(ms, th, some_system(r) if r.random() < .3 else '', effort=some_effort(r, th))


def drill(r, lv):
    """Columns of the written method, only the part after `=` trained: facts at five times the density of whole sums."""
    out = [(encoding.BOS, 0)]
    for _ in range(12):
        p, q, c, minus = r.randint(0, 9), r.randint(0, 9), r.randint(0, 1), r.random() < .5
        v = p - q - c if minus else p + q + c
        more = (', borrow 1' if v < 0 else '') if minus else (', carry 1' if v > 9 else '')
        out += [(f'{p}{"-" if minus else "+"}{q}{"-" if minus else "+"}{c}=', 0), (f'{v % 10}{more}\n', 1)]
    return out


# ---------------------------------------------------------------- JSON
def extract(r, lv):
    n, c, y, j = r.choice(NAMES), r.choice(CITIES), r.randint(18, 90), r.choice(('baker', 'doctor', 'teacher', 'farmer', 'pilot', 'painter', 'nurse', 'sailor', 'cook', 'writer'))
    k = r.randrange(4)
    if k <= 1:
        t = r.choice([f'{n} lives in {c} and is {y} years old.', f'My name is {n}, I am {y} and I live in {c}.', f'At {y}, {n} moved to {c}.', f'{n} is {y} and comes from {c}.', f'{n}, {y}, {c}.'])
        f = dict(name=n, city=c, age=y)
        ask = r.choice(['Extract name, city and age as JSON: {}', 'Give me name, city and age as JSON: {}', '{} Write name, city and age as JSON.'])
    elif k == 2:
        t = r.choice([f'{n} is a {j} in {c}.', f'{n} works as a {j} in {c}.', f'In {c} lives {n}, a {j}.'])
        f = dict(name=n, job=j, city=c)
        ask = r.choice(['Extract name, job and city as JSON: {}', 'Give me name, job and city as JSON: {}'])
    else:
        g, p = r.choice(TOPICS), r.randint(2, 99)
        t = r.choice([f'{n} paid {p} euros for the {g}.', f'The {g} cost {n} {p} euros.', f'{n} bought the {g} for {p} euros.'])
        f = dict(name=n, item=g, price=p)
        ask = r.choice(['Extract name, item and price as JSON: {}', 'Give me name, item and price as JSON: {}'])
    th = r.random() < .3
    return dialogue([user(ask.format(t)), says(json.dumps(f), 'I copy the fields from the text.')], th)


# ---------------------------------------------------------------- tools
def tool(name, what, **par):
    """par: name -> (type, description)."""
    return dict(name=name, description=what, parameters=dict(type='object',
                properties={k.rstrip('_'): dict(type=t, description=d) for k, (t, d) in par.items()}, required=[k.rstrip('_') for k in par]))


SCHEMAS = {t['name']: t for t in [
    tool('get_weather', 'Get the weather for a specific location', location=('string', 'The city name')),
    tool('get_time', 'Get the local time of a city', city=('string', 'The city name')),
    tool('send_mail', 'Send a mail', to=('string', 'Name of the receiver'), subject=('string', 'Subject of the mail')),
    tool('set_timer', 'Set a timer', minutes=('integer', 'Number of minutes')),
    tool('find_train', 'Find the next train', from_=('string', 'Start city'), to=('string', 'Goal city')),
    tool('search', 'Search the web for information', query=('string', 'Search query')),
]}


OTHER = dict(get_weather=dict(location=('city', 'place')), get_time=dict(city=('location', 'place')), send_mail=dict(to=('recipient', 'name'), subject=('topic', 'title')),
             set_timer=dict(minutes=('duration', 'time')), find_train={'from': ('start', 'origin'), 'to': ('goal', 'destination')}, search=dict(query=('text', 'words')))


def renamed(r, name):
    """The schema with some parameters under another name, and the names: what to call them has to be read."""
    s = SCHEMAS[name]
    names = {k: (r.choice(OTHER[name][k]) if r.random() < .4 else k) for k in s['parameters']['properties']}
    p = dict(type='object', properties={names[k]: v for k, v in s['parameters']['properties'].items()}, required=list(names.values()))
    return dict(s, parameters=p), names


def call_of(r, name):
    """(question, arguments, result, final answer, thinking)"""
    c, d = r.sample(CITIES, 2)
    n, w, v, m = r.choice(NAMES), r.choice(TOPICS), r.choice(THINGS), r.randint(1, 99)
    if name == 'get_weather':
        s, g = r.choice(('sunny', 'cloudy', 'rainy', 'windy', 'snowy', 'foggy')), r.randint(1, 35)
        q = r.choice(["What's the weather in {}?", 'What is the weather in {}?', 'How is the weather in {}?', 'Tell me the weather in {}.', 'Weather in {}?', 'Is it warm in {}?'])
        return q.format(c), dict(location=c), dict(temperature=g, condition=s), f'It is {s} in {c}, at {g} degrees.', f'I need the weather in {c}.'
    if name == 'get_time':
        t = f'{r.randint(0, 23):02}:{r.randint(0, 59):02}'
        q = r.choice(['What time is it in {}?', 'Tell me the time in {}.', 'How late is it in {}?', 'Time in {}?'])
        return q.format(c), dict(city=c), dict(time=t), f'It is {t} in {c}.', f'I need the time in {c}.'
    if name == 'send_mail':
        q = r.choice([f'Write to {n} about the {w}.', f'Send a mail to {n} about the {w}.', f'Mail {n} about the {w}.', f'Please send {n} a mail about the {w}.'])
        return q, dict(to=n, subject=w), dict(sent=True), f'I sent a mail to {n} about the {w}.', f'I write to {n} about the {w}.'
    if name == 'set_timer':
        q = r.choice([f'Set a timer for {m} minutes.', f'Wake me in {m} minutes.', f'Start a timer of {m} minutes.', f'Remind me in {m} minutes.'])
        return q, dict(minutes=m), dict(ok=True), f'The timer is set for {m} minutes.', f'I set {m} minutes.'
    if name == 'find_train':
        t = f'{r.randint(5, 22):02}:{r.randint(0, 59):02}'
        q = r.choice([f'When is the next train from {c} to {d}?', f'I want to go from {c} to {d} by train.', f'Find a train from {c} to {d}.', f'Train from {c} to {d}?'])
        return q, {'from': c, 'to': d}, dict(departure=t), f'The next train from {c} to {d} leaves at {t}.', f'I look for a train from {c} to {d}.'
    g = r.choice(THINGS + TOPICS)
    x = f'{v} {g}' if r.random() < .7 else g
    q = r.choice(['Search for {}.', 'Look up {} on the web.', 'Search the web for {}.', 'Find {} on the web.'])
    return q.format(x), dict(query=x), dict(results=r.randint(2, 99)), None, f'I search for {x}.'


def tools(r, lv, rounds=None, none=.2, thinking=None):
    th = r.random() < .35 if thinking is None else thinking
    names, ms = r.sample(list(SCHEMAS), r.choice((1, 2, 2, 3, 4))), []
    offered = {n: renamed(r, n) if r.random() < lv.rename else (SCHEMAS[n], {}) for n in names}
    for _ in range(rounds or r.randint(1, lv.rounds)):
        if r.random() < none:
            if r.random() < .25:
                q, a, t = sum_of(r, Level(hi=99))
                ms += [user(q), says(a, t) if th else says(f'{t}\nThe answer is {a}.')]
            else:
                q, a, t = talk(r)
                ms += [user(q), says(a, t)]
            continue
        name = r.choice(names)
        q, args, res, final, why = call_of(r, name)
        if name == 'search':
            final = f'I found {res["results"]} results for {args["query"]}.'
        ms += [user(q), dict(role='assistant', content='', reasoning_content=why, tool_calls=[dict(name=name, arguments={offered[name][1].get(k, k): v for k, v in args.items()})]),
               dict(role='tool', content=json.dumps(res)), says(final, 'I have the result.')]
    return dialogue(ms, th, r.choice(SYSTEMS) if r.random() < .4 else '', tools=[offered[n][0] for n in names])


def choice(r, lv):
    """Weather or time?  Two tools whose names begin alike; only the token that tells them apart is trained, in many turns,
    with and without their schemas."""
    ms = []
    for _ in range(r.randint(3, 6)):
        q, args, res, final, why = call_of(r, r.choice(('get_weather', 'get_time')))
        name = 'get_time' if 'city' in args else 'get_weather'
        ms += [user(q), dict(role='assistant', content='', reasoning_content=why, tool_calls=[dict(name=name, arguments=args)]),
               dict(role='tool', content=json.dumps(res)), says(final, 'I have the result.')]
    schemas = r.sample([SCHEMAS['get_weather'], SCHEMAS['get_time']], 2) if r.random() < .4 else None
    out = []
    for text, spoken in dialogue(ms, False, tools=schemas):
        parts = re.split('(?<=name="get)(_weather|_time)', text) if spoken else [text]
        out += [(p, int(spoken and k % 2)) for k, p in enumerate(parts) if p]
    return out


# ---------------------------------------------------------------- needle
TEXT = []                                                  # paragraphs of plain English, set by load_corpus


def load_corpus(path):
    TEXT[:] = open(path).read().splitlines()


def sentence(r):
    if TEXT and r.random() < .5:
        s = r.choice(r.choice(TEXT).split('. '))
        if 20 < len(s) < 120:
            return s.rstrip('.;:,') + '. '
    return ' '.join(r.choice(WORDS) for _ in range(r.randint(6, 12))) + '. '


def filler(r, n): return ''.join(sentence(r) for _ in range(n))


def needle(r, lv, sentences=None, keys=None, asks=None, after=0):
    """Codes given once each in filler, then questions (turns of one conversation) about them: with one question a text
    five tokens in hundreds would teach anything.  At least `after` sentences stand behind the last code."""
    n = sentences if sentences is not None else r.randint(*lv.needle)
    k = keys or (1 if r.random() < .5 else r.randint(*lv.keys))
    names, codes = r.sample(THINGS, k), [str(r.randint(1000, 9999)) for _ in range(k)]
    where = sorted(r.randint(0, max(0, n - after)) for _ in names)
    s, at = '', 0
    for w, m, c in zip(where, names, codes):
        s += filler(r, w - at) + f'The code for {m} is {c}. '
        at = w
    s += filler(r, n - at)
    order = r.sample(range(k), k)[:asks or lv.asks]
    ms = []
    for j, i in enumerate(order):
        ms += [user((s if j == 0 else '') + f'What is the code for {names[i]}?'), says(codes[i])]
    return dialogue(ms, False)


def far(r, lv):
    """One code behind the window, asked for at once."""
    return needle(r, lv, keys=1, asks=1, after=lv.after)


# ---------------------------------------------------------------- string work
def strings(r, lv):
    """Repeat, spell and pick: dense practice in copying."""
    k = r.random()
    words = [r.choice(r.choice((THINGS, TOPICS, NAMES, CITIES, WORDS))) if r.random() < .8 else str(r.randint(0, 9999)) for _ in range(r.randint(3, 10))]
    if k < .7:
        return dialogue([user(r.choice(['Repeat: {}', 'Say this again: {}', 'Repeat these words: {}', 'Copy: {}']).format(' '.join(words))), says(' '.join(words), 'I repeat the text.')], r.random() < .1)
    if k < .85:
        i = r.choice((0, -1))
        return dialogue([user(f'What is the {"last" if i else "first"} word of: {" ".join(words)}'), says(words[i], 'I look at the text.')], r.random() < .1)
    i = r.randrange(len(words) - 1)
    if words.count(words[i]) > 1:
        return strings(r, lv)
    return dialogue([user(f'Which word comes after {words[i]} in: {" ".join(words)}'), says(words[i + 1], 'I look at the text.')], r.random() < .1)


# ---------------------------------------------------------------- plain text
def prose(r, lv):
    i = r.randrange(len(TEXT) - 4)
    t = ' '.join(TEXT[i:i + 2])
    return [(encoding.BOS, 0), (t[:r.randint(200, 700)], 1)]


SKILLS = dict(arith=arithmetic, tools=tools, faq=faq, json=extract, needle=needle, prose=prose, strings=strings, drill=drill, far=far, choice=choice)


# ---------------------------------------------------------------- rows
def encode(tok, pieces):
    ids, tr = [], []
    for t, f in pieces:
        e = tok.encode(t, add_special_tokens=False).ids
        ids += e
        tr += [f] * len(e)
    return ids, tr


def rows(tok, r, lv, mix, B, T, pad=2):
    """B rows of T tokens, whole conversations one after another (what does not fit is dropped).
    -> tokens [B, T]; kind [B, T]: index of the skill whose answer token t+1 is, -1 for prompt tokens, -2 for padding."""
    X, K = np.full((B, T), pad), np.full((B, T), -2)
    names, weights = list(mix), list(mix.values())
    for b in range(B):
        at, miss, searched = 0, 0, False                   # one text with codes a row: those of another would be wrong answers
        while at < T - 24 and miss < 6:
            k = r.choices(range(len(names)), weights)[0]
            if searched and names[k] in ('needle', 'far'):
                miss += 1
                continue
            ids, tr = encode(tok, SKILLS[names[k]](r, lv))
            n = len(ids)
            if at + n > T:
                miss += 1
                continue
            X[b, at:at + n] = ids
            K[b, at:at + n - 1] = np.where(np.array(tr[1:]) > 0, k, -1)
            at += n
            searched |= names[k] in ('needle', 'far')
    return X, K
