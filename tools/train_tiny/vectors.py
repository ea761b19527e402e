"""Texts and their token ids by Hugging Face tokenizers:   python3 vectors.py TOKENIZER.json OUT.json"""
import json, sys
from tokenizers import Tokenizer
import data, encoding, random

TEXTS = ['', 'a', ' ', '\n', '  \n\n  x', 'Hello, world!', "I'm here; you're there.", 'The quick brown fox jumps over the lazy dog.', '1', '12', '1234567890', '3.14159', 'v4.1-rc2',
         'x=1;y=22;z=333', 'ÄÖÜ äöü ß', 'naïve café', 'Γειά σου Κόσμε', 'Привет, мир', '日本語のテキスト', '你好，世界', '한국어', 'שלום', 'مرحبا', '🙂🙃', '👩\u200d👩\u200d👧', 'e\u0301', '\u00a0nbsp', '\u200bzero',
         'tab\tseparated\tvalues', 'trailing spaces   ', '   leading', 'a\r\nb\r\nc', 'def f(x):\n    return x**2\n', '{"a": [1, 2.5, null], "b": "c"}', '<html><body class="x">&amp;</body></html>',
         '#include <stdio.h>\nint main(void) { return 0; }', 'http://example.org/a?b=c&d=e', 'A.B.C...', '!!!???', '--help', "'single' \"double\" `back`", '①②③', '½ ¼', 'Ⅷ', '٣٤٥', '१२३',
         'Zürich12Bern3', 'ALLCAPS camelCase snake_case', 'ﬁ ligature', '\ufeffbom', '¿Qué?', 'Ω≈ç√∫', '一二三123四五', 'カタカナひらがな漢字', 'mixed中文and English',
         '<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜></think>Hello<｜end▁of▁sentence｜>', '<think>x</think>', '｜DSML｜', '<｜DSML｜invoke name="f">', '<｜fim▁begin｜>a<｜fim▁hole｜>b<｜fim▁end｜>', '<|EOT|>']


def main(path, out):
    t, r, lv = Tokenizer.from_file(path), random.Random(99), data.Level()
    data.TEXT[:] = ['And God said, Let there be light: and there was light.'] * 8
    texts = TEXTS + [''.join(p for p, _ in data.SKILLS[k](r, lv)) for k in ('arith', 'tools', 'faq', 'json', 'needle') for _ in range(2)] + [encoding.text([dict(role='user', content='Hi')], thinking=True, effort='max')]
    json.dump([dict(text=s, ids=t.encode(s, add_special_tokens=False).ids) for s in texts], open(out, 'w'), ensure_ascii=False, separators=(',', ':'))


if __name__ == '__main__':
    main(*sys.argv[1:])
