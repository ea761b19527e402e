"""Plain English text for training, from Debian packages by name; every source is in the public domain.

    python3 corpus.py FOLDER          downloads the packages (apt-get download, nothing is installed) and writes
                                      FOLDER/corpus.txt, one paragraph a line, and FOLDER/sources.json
"""
import gzip, json, os, re, subprocess, sys

PACKAGES = {
    'bible-kjv-text': 'King James Version of the Bible (1611); the copyright of the text has expired',
    'bible-kjv': 'program that prints the verses of bible-kjv-text (GPL-2+; used as a tool, not as text)',
    'jargon-text': 'the Jargon File 4.4.7, in the public domain by its own notice',
    'miscfiles': 'US Declaration of Independence and Constitution (files under /usr/share/state), public domain',
}


def fetch(folder):
    os.makedirs(folder, exist_ok=True)
    for p in PACKAGES:
        if not os.path.isdir(f'{folder}/{p}'):
            subprocess.check_call(['apt-get', 'download', '-q', p], cwd=folder)
            deb = next(f for f in os.listdir(folder) if f.startswith(p + '_') and f.endswith('.deb'))
            subprocess.check_call(['dpkg-deb', '-x', deb, p], cwd=folder)


def tidy(t):
    t = re.sub(r'\s+', ' ', t.replace('—', ' - ')).strip()
    return t if t.isascii() else ''


def bible(folder):
    out = subprocess.run([f'{folder}/bible-kjv/usr/bin/bible', '-p', f'{folder}/bible-kjv-text/usr/lib', '-l9999', 'gen1:1-rev22:21'],
                         capture_output=True, text=True, errors='replace').stdout
    verses = re.findall(r'^\s*(?:[1-3]?[A-Za-z]{2,3}\d+:)?\d*:?\d+ (.+)$', out, re.M)
    for i in range(0, len(verses) - 4, 4):                 # four verses a paragraph
        yield ' '.join(verses[i:i + 4])


def jargon(folder):
    t = gzip.open(f'{folder}/jargon-text/usr/share/doc/jargon-text/jargon.txt.gz', 'rt', errors='replace').read()
    for p in re.split(r'\n\s*\n', t):
        p = tidy(p)
        if len(p) > 150 and sum(c.isalpha() or c == ' ' for c in p) > .92 * len(p):
            yield p


def state(folder):
    for n in ('us-declaration', 'us-constitution'):
        for p in re.split(r'\n\s*\n', gzip.open(f'{folder}/miscfiles/usr/share/state/{n}.gz', 'rt').read()):
            if len(p) > 120:
                yield p


def main(folder):
    fetch(folder)
    sources, lines = {}, []
    for name, f in (('bible-kjv-text', bible), ('jargon-text', jargon), ('miscfiles', state)):
        ls = [t for t in map(tidy, f(folder)) if len(t) > 80]
        sources[name] = dict(paragraphs=len(ls), bytes=sum(len(t) for t in ls), what=PACKAGES[name])
        lines += ls
    open(f'{folder}/corpus.txt', 'w').write('\n'.join(lines) + '\n')
    json.dump(sources, open(f'{folder}/sources.json', 'w'), indent=1)
    print(json.dumps(sources, indent=1))


if __name__ == '__main__':
    main(sys.argv[1])
