#!/usr/bin/env python3
"""models/tiny and models/tiny-dspark are checkpoints in the official format: every tensor the configuration asks for is there with its dtype and
shape and nothing else, codes and scales are legal, the tokenizer has the real structure and gives back its texts.
TAP; standard library only (with `tokenizers` installed the encoder is checked too)."""
import json, os, struct, sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', '..')
SIZE = dict(F32=4, BF16=2, F8_E4M3=1, F8_E8M0=1, I8=1, I64=8)
count = failed = 0


def ok(good, name, why=''):
    global count, failed
    count += 1
    failed += not good
    print('ok' if good else 'not ok', count, '-', name)
    if not good and why:
        print('#', why)


def expected(c, dspark):
    """name -> (dtype, shape) as the format prescribes."""
    D, V, S = c['hidden_size'], c['vocab_size'], c['hc_mult']
    H, hd, qr, G, ol = c['num_attention_heads'], c['head_dim'], c['q_lora_rank'], c['o_groups'], c['o_lora_rank']
    E, K, I = c['n_routed_experts'], c['num_experts_per_tok'], c['moe_intermediate_size']
    up, t = lambda n: -(-n // 128), {}

    def fp8(n, o, i):
        t[n + '.weight'], t[n + '.scale'] = ('F8_E4M3', [o, i]), ('F8_E8M0', [up(o), up(i)])

    def fp4(n, o, i):
        t[n + '.weight'], t[n + '.scale'] = ('I8', [o, i // 2]), ('F8_E8M0', [o, i // 32])

    def compressor(p, r, d):
        k = 2 if r == 4 else 1
        t[p + 'wkv.weight'] = t[p + 'wgate.weight'] = ('BF16', [k * d, D])
        t[p + 'ape'], t[p + 'norm.weight'] = ('F32', [r, k * d]), ('BF16', [d])

    def hc(p, n):
        t[p + 'fn'], t[p + 'base'], t[p + 'scale'] = ('F32', [n, S * D]), ('F32', [n]), ('F32', [3 if n > S else 1])

    def block(p, r, hashed):
        for n in ('attn_norm', 'ffn_norm'):
            t[f'{p}{n}.weight'] = ('BF16', [D])
        hc(p + 'hc_attn_', S * (2 + S))
        hc(p + 'hc_ffn_', S * (2 + S))
        a = p + 'attn.'
        fp8(a + 'wq_a', qr, D)
        fp8(a + 'wq_b', H * hd, qr)
        fp8(a + 'wkv', hd, D)
        fp8(a + 'wo_a', G * ol, H * hd // G)
        fp8(a + 'wo_b', D, G * ol)
        t[a + 'q_norm.weight'], t[a + 'kv_norm.weight'], t[a + 'attn_sink'] = ('BF16', [qr]), ('BF16', [hd]), ('F32', [H])
        if r:
            compressor(a + 'compressor.', r, hd)
        if r == 4:
            x = a + 'indexer.'
            fp8(x + 'wq_b', c['index_n_heads'] * c['index_head_dim'], qr)
            t[x + 'weights_proj.weight'] = ('BF16', [c['index_n_heads'], D])
            compressor(x + 'compressor.', 4, c['index_head_dim'])
        f = p + 'ffn.'
        t[f + 'gate.weight'] = ('BF16', [E, D])
        t[f + ('gate.tid2eid' if hashed else 'gate.bias')] = ('I64', [V, K]) if hashed else ('F32', [E])
        for e in range(E):
            for n, o, i in (('w1', I, D), ('w3', I, D), ('w2', D, I)):
                fp4(f'{f}experts.{e}.{n}', o, i)
        for n, o, i in (('w1', I, D), ('w3', I, D), ('w2', D, I)):
            fp8(f'{f}shared_experts.{n}', o, i)

    t['embed.weight'] = t['head.weight'] = ('BF16', [V, D])
    t['norm.weight'] = ('BF16', [D])
    hc('hc_head_', S)
    for l in range(c['num_hidden_layers']):
        block(f'layers.{l}.', c['compress_ratios'][l], l < c['num_hash_layers'])
    stages = len(c['compress_ratios']) - c['num_hidden_layers']
    for s in range(stages):
        block(f'mtp.{s}.', 0, False)
    if dspark:
        R, last = c['dspark_markov_rank'], f'mtp.{stages - 1}.'
        fp8('mtp.0.main_proj', D, D * len(c['dspark_target_layer_ids']))
        t['mtp.0.main_norm.weight'] = t[last + 'norm.weight'] = ('BF16', [D])
        hc(last + 'hc_head_', S)
        t[last + 'markov_head.markov_w1.weight'] = t[last + 'markov_head.markov_w2.weight'] = ('BF16', [V, R])
        t[last + 'confidence_head.proj.weight'] = ('BF16', [1, D + R])
    elif stages:
        fp8('mtp.0.e_proj', D, D)
        fp8('mtp.0.h_proj', D, D)
        for n in ('enorm', 'hnorm', 'norm'):
            t[f'mtp.0.{n}.weight'] = ('BF16', [D])
        hc('mtp.0.hc_head_', S)
    return t


def read(path):
    """name -> (dtype, shape, bytes); also whether the data is a gapless cover of the file."""
    with open(path, 'rb') as f:
        head = json.loads(f.read(struct.unpack('<Q', f.read(8))[0]))
        body = f.read()
    head.pop('__metadata__', None)
    spans = sorted(h['data_offsets'] for h in head.values())
    whole = [0] + [b for _, b in spans] == [a for a, _ in spans] + [len(body)]
    return {k: (h['dtype'], h['shape'], body[slice(*h['data_offsets'])]) for k, h in head.items()}, whole


def check_model(folder):
    name = os.path.basename(folder)
    c = json.load(open(f'{folder}/config.json'))
    tensors, whole = {}, True
    for n in sorted(os.listdir(folder)):
        if n.startswith('model') and n.endswith('.safetensors'):
            t, w = read(f'{folder}/{n}')
            tensors.update(t)
            whole &= w
    want = expected(c, 'dspark_block_size' in c)
    ok(whole, f'{name}: tensor data covers the file without gap or overlap')
    ok(set(tensors) == set(want), f'{name}: the {len(want)} tensors of the format, no other', sorted(set(tensors) ^ set(want))[:5])
    bad = [k for k in want if k in tensors and (tensors[k][0], tensors[k][1]) != (want[k][0], list(want[k][1]))]
    ok(not bad, f'{name}: dtypes and shapes', [(k, tensors[k][:2], want[k]) for k in bad[:3]])
    size = lambda s: __import__('math').prod(s)
    ok(all(len(b) == size(s) * SIZE[d] for d, s, b in tensors.values()), f'{name}: bytes of every tensor')
    ok(all(255 not in b for d, _, b in tensors.values() if d == 'F8_E8M0'), f'{name}: no NaN scale')
    ok(all(127 not in b and 255 not in b for d, _, b in tensors.values() if d == 'F8_E4M3'), f'{name}: no NaN weight')
    K, E, good = c['num_experts_per_tok'], c['n_routed_experts'], True
    for d, s, b in tensors.values():
        if d == 'I64':
            ids = struct.unpack(f'<{s[0] * s[1]}q', b)
            good &= all(len(set(r)) == K and min(r) >= 0 and max(r) < E for r in (ids[i:i + K] for i in range(0, len(ids), K)))
    ok(good, f'{name}: hash routing names distinct experts')
    r = c['compress_ratios'][:c['num_hidden_layers']]
    ok(r.count(4) >= 2 and r.count(128) >= 2 and 0 in r and c['num_hash_layers'] >= 1, f'{name}: every kind of layer')
    return c


def byte_alphabet():
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in keep]
    return {**{chr(b): b for b in keep}, **{chr(256 + i): b for i, b in enumerate(rest)}}


def check_tokenizer(folder, c):
    name = os.path.basename(folder)
    j = json.load(open(f'{folder}/tokenizer.json'))
    vocab, added = j['model']['vocab'], {a['id']: a['content'] for a in j['added_tokens']}
    ids = {**{i: k for k, i in vocab.items()}, **added}
    ok(sorted(ids) == list(range(c['vocab_size'])), f'{name}: token ids 0..{c["vocab_size"] - 1} without gap')
    ok([added[i] for i in (0, 1, 2)] == ['<｜begin▁of▁sentence｜>', '<｜end▁of▁sentence｜>', '<｜▁pad▁｜>'], f'{name}: begin, end and pad are 0, 1, 2')
    need = '<｜User｜> <｜Assistant｜> <think> </think> ｜DSML｜ <｜latest_reminder｜> <｜action｜> <｜query｜> <｜authority｜> <｜domain｜> <｜title｜> <｜read_url｜>'.split()
    ok(all(n in added.values() for n in need), f'{name}: the special tokens of the chat format')
    pre = [p['type'] for p in j['pre_tokenizer']['pretokenizers']]
    ok(pre == ['Split', 'Split', 'Split', 'ByteLevel'], f'{name}: three Split steps and ByteLevel')
    ok(not [k for k in vocab if len(k) > 1 and any(ch.isdigit() for ch in k)], f'{name}: digits are never merged')
    alphabet = byte_alphabet()
    ok(all(k in vocab for k in alphabet), f'{name}: every byte has a token')
    merged = all(''.join(m.split(' ')) in vocab for m in j['model']['merges'])
    ok(merged and len(j['model']['merges']) == len(vocab) - 256 - 3, f'{name}: merges lead to tokens')

    def decode(seq):
        out = bytearray()
        for i in seq:
            out += added[i].encode() if i in added else bytes(alphabet[ch] for ch in ids[i])
        return out.decode()
    vectors = json.load(open(os.path.join(ROOT, 'tests/data/tiny/tokenizer_vectors.json')))
    bad = [v['text'] for v in vectors if decode(v['ids']) != v['text']]
    ok(not bad, f'{name}: {len(vectors)} token sequences decode to their texts', bad[:2])
    try:
        from tokenizers import Tokenizer
    except ImportError:
        return
    t = Tokenizer.from_file(f'{folder}/tokenizer.json')
    bad = [v['text'] for v in vectors if t.encode(v['text'], add_special_tokens=False).ids != v['ids']]
    ok(not bad, f'{name}: {len(vectors)} texts encode to their token sequences', bad[:2])


def main():
    files = set()
    for n in ('tiny', 'tiny-dspark'):
        folder = os.path.normpath(os.path.join(ROOT, 'models', n))
        check_tokenizer(folder, check_model(folder))
        files |= {os.path.realpath(f'{folder}/{f}') for f in os.listdir(folder)}
    total = sum(os.path.getsize(f) for f in files)
    ok(total <= 16_000_000, f'both models: {total} bytes, at most 16 MB')
    print(f'1..{count}')
    sys.exit(failed > 0)


if __name__ == '__main__':
    main()
