"""byte-level BPE of 3968 in the DeepSeek-V4 layout:  python3 make_tokenizer.py CORPUS.txt OUT_DIR

Same normaliser, three-step pre-tokeniser, decoder and special-token names as the real tokenizer.json, the ids packed
into 3968.  Digits are never merged (arithmetic depends on it): the training text has every digit cut off by itself.
"""
import json, os, random, re, sys
import regex_steps
from tokenizers import Tokenizer, Regex, models, trainers, pre_tokenizers, decoders, normalizers
import data, encoding

VOCAB = 3968
# (content, special, normalized): the real names and flags, without the place holders and the vision tokens
FIRST = [(encoding.BOS, True, False), (encoding.EOS, True, False), (encoding.PAD, True, False)]
LAST = [(t, False, True) for t in ['<｜fim▁hole｜>', '<｜fim▁begin｜>', '<｜fim▁end｜>', '<｜User｜>', '<｜Assistant｜>']] + [('<|EOT|>', True, True)] + \
       [(t, False, True) for t in '<think> </think> ｜DSML｜ <｜latest_reminder｜> <｜action｜> <｜query｜> <｜authority｜> <｜domain｜> <｜task｜> <｜title｜> <｜search▁begin｜> <｜search▁end｜> <｜extracted_url｜> <｜read_url｜>'.split()] + \
       [('<｜end_of_query｜>', True, False)] + [(f'<｜place▁holder▁no▁{i}｜>', True, False) for i in range(4)]


def pre_tokenizer():
    steps = [pre_tokenizers.Split(Regex(p), 'isolated') for p in regex_steps.STEPS]
    return pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def training_text(corpus):
    """Skill samples (weighted up, they are what the model reads most) and prose; specials removed, digits isolated."""
    r, cut = random.Random(5), re.compile('|'.join(re.escape(t) for t, _, _ in FIRST + LAST) + r'|[0-9]')
    data.load_corpus(corpus)
    for name, n in dict(arith=1500, tools=2500, faq=6000, json=3000, needle=400).items():
        for _ in range(n):
            for t, _ in data.SKILLS[name](r, data.Level()):
                yield from (s for s in cut.split(t) if s)
    for t in data.TEXT:
        yield from (s for s in cut.split(t) if s)


def main(corpus, out):
    n = VOCAB - len(FIRST) - len(LAST)
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Sequence([])
    t.pre_tokenizer = pre_tokenizer()
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(training_text(corpus), trainers.BpeTrainer(
        vocab_size=n + len(FIRST), show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[f[0] for f in FIRST]))
    j = json.loads(t.to_str())
    # ids: 0..2 special, then the learned vocabulary, then the other added tokens
    added = [(i, *f) for i, f in enumerate(FIRST)] + [(VOCAB - len(LAST) + i, *f) for i, f in enumerate(LAST)]
    j['added_tokens'] = [dict(id=i, content=c, single_word=False, lstrip=False, rstrip=False, normalized=nm, special=sp) for i, c, sp, nm in added]
    j['post_processor'] = dict(type='ByteLevel', add_prefix_space=True, trim_offsets=False, use_regex=True)
    j['decoder'] = dict(type='ByteLevel', add_prefix_space=True, trim_offsets=True, use_regex=True)
    j['model'].pop('ignore_merges', None)
    j['model']['merges'] = [m if isinstance(m, str) else ' '.join(m) for m in j['model']['merges']]
    os.makedirs(out, exist_ok=True)
    json.dump(j, open(f'{out}/tokenizer.json', 'w'), ensure_ascii=False, separators=(",", ":"))
    tok = lambda c: dict(__type='AddedToken', content=c, lstrip=False, normalized=True, rstrip=False, single_word=False)
    json.dump(dict(add_bos_token=False, add_eos_token=False, bos_token=tok(encoding.BOS), clean_up_tokenization_spaces=False, eos_token=tok(encoding.EOS),
                   legacy=True, model_max_length=1048576, pad_token=tok(encoding.EOS), sp_model_kwargs={}, unk_token=None,
                   tokenizer_class='PreTrainedTokenizerFast'), open(f'{out}/tokenizer_config.json', 'w'), ensure_ascii=False, indent=2)
    json.dump(dict(_from_model_config=True, bos_token_id=0, eos_token_id=1, do_sample=True, temperature=1.0, top_p=1.0, transformers_version='4.46.3'),
              open(f'{out}/generation_config.json', 'w'), indent=2)
    v = j['model']['vocab']
    merged = [k for k in v if len(k) > 1 and any(c.isdigit() for c in k)]
    assert not merged, merged
    print('vocabulary', len(v), 'merges', len(j['model']['merges']), 'added', len(added), 'highest id', max(max(v.values()), added[-1][0]))


if __name__ == '__main__':
    main(*sys.argv[1:])
