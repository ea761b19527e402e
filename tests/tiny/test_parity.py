#!/usr/bin/env python3
"""The engine on the trained model against the float64 reference (tests/data/tiny/len*.safetensors), exact numerics.
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


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else os.path.abspath(os.environ.get('HADAL', f'{ROOT}/hadal'))
    cases = sorted(n for n in os.listdir(f'{ROOT}/tests/data/tiny') if n.startswith('len'))
    count = failed = 0
    for n in cases:
        e = read(f'{ROOT}/tests/data/tiny/{n}')
        with tempfile.NamedTemporaryFile('w', suffix='.txt') as f:
            f.write(','.join(map(str, e['tokens'])))
            f.flush()
            at = sorted(set(e['positions']) | set(e['mtp_positions']))
            r = subprocess.run([program, 'logits', '-m', f'{ROOT}/models/tiny', '--tokens', f.name, '--positions', ','.join(map(str, at)),
                                '--numerics', 'exact', '--mtp', '--json'], capture_output=True, text=True)
        diff = {}
        try:
            j = json.loads(r.stdout)
            for pos, rows in (('positions', 'logits'), ('mtp_positions', 'mtp_logits')):
                got = dict(zip(j[pos], j[rows]))
                diff[rows] = max(abs(got[p][c] - w) for p, row in zip(e[pos], e[rows]) for c, w in zip(e['columns'], row))
            got = dict(zip(j['positions'], j['logits']))
            same = all(max(range(len(got[p])), key=got[p].__getitem__) == a for p, a in zip(e['positions'], e['argmax']))
        except Exception as x:
            diff, same = {'error': 9e9}, False
            print('#', x, r.stderr.strip()[:200])
        for k, v in diff.items():
            count += 1
            good = v <= LIMIT
            failed += not good
            print('ok' if good else 'not ok', count, f'- {n[:-12]}, {len(e["tokens"])} tokens: {k} within {LIMIT:g} of the reference ({v:.1e})')
        count += 1
        failed += not same
        print('ok' if same else 'not ok', count, f'- {n[:-12]}: best token at {len(e["positions"])} positions')
    print(f'1..{count}')
    sys.exit(failed > 0)


if __name__ == '__main__':
    main()
