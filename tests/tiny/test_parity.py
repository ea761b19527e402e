#!/usr/bin/env python3
"""The engine on the trained models against the float64 reference (tests/data/tiny/len*.safetensors), exact numerics.
TAP; standard library only.   test_parity.py [PROGRAM]"""
import json, os, struct, subprocess, sys, tempfile

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..'))
LIMIT = 1e-4


def read(path):
    with open(path, 'rb') as f:
        head = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
        body = f.read()
    out = {}
    for k, h in head.items():
        b = body[slice(*h['data_offsets'])]
        v = struct.unpack(f'<{len(b) // (8 if h["dtype"] == "I64" else 4)}{"q" if h["dtype"] == "I64" else "f"}', b)
        n = h['shape'][-1]
        out[k] = [v[i:i + n] for i in range(0, len(v), n)] if len(h['shape']) == 2 else v
    return out


def logits(program, folder, tokens, at, *options):
    with tempfile.NamedTemporaryFile('w', suffix='.txt') as f:
        f.write(','.join(map(str, tokens)))
        f.flush()
        r = subprocess.run([program, 'logits', '-m', f'{ROOT}/models/{folder}', '--tokens', f.name, '--positions', ','.join(map(str, at)),
                            '--numerics', 'exact', '--json', *options], capture_output=True, text=True)
    if r.returncode != 0:
        sys.exit(f'hadal logits: {r.stderr.strip()[:200]}')
    return json.loads(r.stdout)


def distance(j, e, positions, rows, columns):
    """Largest difference of the rows at the positions the case lists."""
    got = dict(zip(j[positions], j[rows]))
    return max(abs(got[p][c] - w) for p, row in zip(e[positions], e[rows]) for c, w in zip(columns, row))


def compare(program, e):
    """[(what, how far off)] of one case; 0 and infinity where numbers must be equal."""
    at = sorted(set(e['positions']) | set(e.get('mtp_positions', ())))
    more = ['--mtp'] if 'mtp_positions' in e else []
    j = logits(program, 'tiny', e['tokens'], at, *more)
    got = dict(zip(j['positions'], j['logits']))
    same = all(max(range(len(got[p])), key=got[p].__getitem__) == a for p, a in zip(e['positions'], e['argmax']))
    out = [('logits', distance(j, e, 'positions', 'logits', e['columns'])), (f'best token at {len(e["positions"])} positions', 0 if same else 9e9)]
    if more:
        out.append(('MTP logits', distance(j, e, 'mtp_positions', 'mtp_logits', e['columns'])))
        j = logits(program, 'tiny-dspark', e['tokens'], e['draft_positions'], '--dspark')
        same = j['draft_positions'] == list(e['draft_positions']) and j['drafts'] == [list(d) for d in e['drafts']]
        out.append((f'{len(j["drafts"])} DSpark drafts', 0 if same else 9e9))
        out.append(('confidence of the drafts', distance(j, e, 'draft_positions', 'draft_confidence', range(5))))
    return out


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else os.path.abspath(os.environ.get('HADAL', f'{ROOT}/hadal'))
    cases = sorted(n for n in os.listdir(f'{ROOT}/tests/data/tiny') if n.startswith('len'))
    count = failed = 0
    for n in cases:
        e = read(f'{ROOT}/tests/data/tiny/{n}')
        for what, v in compare(program, e):
            count += 1
            failed += not v <= LIMIT
            print('ok' if v <= LIMIT else 'not ok', count, f'- {n[:-12]}, {len(e["tokens"])} tokens: {what} as the reference has them ({v:.1e})')
    print(f'1..{count}')
    sys.exit(failed > 0)


if __name__ == '__main__':
    main()
