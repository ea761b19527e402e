"""Draw log.jsonl of runs that followed each other as SVG, nothing needed but Python:   python3 plot.py RUN_DIR... OUT.svg"""
import json, math, sys

COLOURS = dict(loss='#222', mtp='#888', index='#bbb', arith='#c33', tools='#36c', faq='#393', json='#c80', needle='#83a', prose='#099', strings='#a66', drill='#f7a', far='#52e')


def line(pts, colour):
    return f'<polyline fill="none" stroke="{colour}" stroke-width="1.4" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in pts)}"/>'


def panel(out, x0, title, series, lo, hi, tmax, log, ticks):
    w, h, top = 380, 260, 40
    y = (lambda v: top + h - h * (math.log(max(v, lo)) - math.log(lo)) / (math.log(hi) - math.log(lo))) if log else (lambda v: top + h - h * (v - lo) / (hi - lo))
    out.append(f'<rect x="{x0}" y="{top}" width="{w}" height="{h}" fill="none" stroke="#ccc"/><text x="{x0}" y="{top - 14}" font-size="13">{title}</text>')
    for t in ticks:
        out.append(f'<text x="{x0 - 6}" y="{y(t) + 4:.1f}" text-anchor="end">{t:g}</text><line x1="{x0}" x2="{x0 + w}" y1="{y(t):.1f}" y2="{y(t):.1f}" stroke="#eee"/>')
    for i in range(5):
        out.append(f'<text x="{x0 + w * i / 4}" y="{top + h + 16}" text-anchor="middle">{tmax * i / 4:.1f}</text>')
    out.append(f'<text x="{x0 + w / 2}" y="{top + h + 32}" text-anchor="middle">million tokens</text>')
    for k, (name, pts) in enumerate(series.items()):
        out.append(line([(x0 + w * a / tmax, y(b)) for a, b in pts], COLOURS[name]))
        out.append(f'<text x="{x0 + w - 8}" y="{top + 16 + 14 * k}" fill="{COLOURS[name]}" text-anchor="end">{name}</text>')


def main(*args):
    *runs, path = args
    rows = [json.loads(l) for run in runs for l in open(f'{run}/log.jsonl')]
    tmax = rows[-1]['tokens'] / 1e6
    get = lambda f: [(r['tokens'] / 1e6, f(r)) for r in rows if f(r) is not None]
    loss = {k: p for k in ('loss', 'mtp', 'index') if (p := get(lambda r: r.get(k)))}
    acc = {k: p for k in ('arith', 'tools', 'faq', 'json', 'needle', 'far', 'prose', 'strings', 'drill') if (p := get(lambda r: r['acc'].get(k)))}
    out = ['<svg xmlns="http://www.w3.org/2000/svg" width="880" height="350" font-family="sans-serif" font-size="11"><rect width="880" height="350" fill="#fff"/>']
    panel(out, 40, 'loss (nats; index: KL)', loss, .02, 10, tmax, True, (.03, .1, .3, 1, 3, 10))
    panel(out, 480, 'training accuracy, answer tokens', acc, 0, 1, tmax, False, (0, .25, .5, .75, 1))
    open(path, 'w').write('\n'.join(out) + '\n</svg>\n')


if __name__ == '__main__':
    main(*sys.argv[1:])
