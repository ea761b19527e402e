"""Read and write the official checkpoint format (safetensors, official names).
   export(model, folder, quant=True): FP4 experts, FP8 linears, BF16/F32 rest, exactly the real dtypes.
   export(..., quant=False): everything F32 (for comparison with the reference in exact mode)."""
import glob, json, os, struct
import numpy as np
import torch
import quant as q

F8 = {}                                                   # e4m3 / e2m1 value -> code
for c in range(127):
    e, m = c >> 3, c & 7
    F8[float(np.ldexp(m, -9) if e == 0 else np.ldexp(8 + m, e - 10))] = c
F8_VALUES = np.array(sorted(F8)); F8_CODES = np.array([F8[v] for v in F8_VALUES], np.uint8)
F4_VALUES = np.array([0, .5, 1, 1.5, 2, 3, 4, 6])

def codes(v, values, table, sign):
    a = np.searchsorted(values, np.abs(v))
    assert np.array_equal(values[a], np.abs(v)), 'not representable'
    return (table[a] | np.where(np.signbit(v), sign, 0)).astype(np.uint8)

def official(name):
    """Module path -> official tensor name (hc_attn.fn -> hc_attn_fn)."""
    for h in ('hc_attn', 'hc_ffn', 'hc_head'):
        name = name.replace(h + '.', h + '_')
    return name

def tensors(model, quantised=True):
    """Yields (official name, dtype string, numpy array)."""
    kinds = {id(m.weight): m.kind for m in model.modules() if hasattr(m, 'kind')}
    for name, p in list(model.named_parameters()) + list(model.named_buffers()):
        if name.endswith(('.load', '.had')):
            continue
        n, t = official(name), p.detach().cpu()
        if name.endswith('tid2eid'):
            yield n, 'I64', t.numpy(); continue
        if '.ffn.experts.' in name or name.startswith('mtp') and '.experts.' in name and t.dim() == 3:
            base, w = n.rsplit('.', 1)
            for e in range(len(t)):
                k = f'{base}.{e}.{w}.'
                if not quantised:
                    yield k + 'weight', 'F32', t[e].numpy(); continue
                v, _, ex = q.fp4_block(t[e])
                c = codes(v.reshape(t[e].shape).numpy(), F4_VALUES, np.arange(8, dtype=np.uint8), 8)
                yield k + 'weight', 'I8', c[:, 0::2] | c[:, 1::2] << 4
                yield k + 'scale', 'F8_E8M0', (ex[..., 0] + 127).numpy().astype(np.uint8)
            continue
        kind = kinds.get(id(p), 'f32')
        if not quantised:
            yield n, 'F32', t.float().numpy(); continue
        if kind == 'fp8':
            v, _, ex, shp = q.fp8_weight(t)
            yield n, 'F8_E4M3', codes(v.reshape(shp)[:t.shape[0], :t.shape[1]].numpy(), F8_VALUES, F8_CODES, 128)
            yield n[:-6] + 'scale', 'F8_E8M0', (ex[:, 0, :, 0] + 127).numpy().astype(np.uint8)
        elif kind == 'bf16' or 'norm' in n or n in ('embed.weight', 'head.weight') or n.endswith('gate.weight'):
            yield n, 'BF16', t.bfloat16().view(torch.int16).numpy().view(np.uint16)
        else:
            yield n, 'F32', t.float().numpy()

def write(path, items):
    head, off, order = {}, 0, sorted(items, key=lambda x: (-x[2].itemsize, x[0]))
    for n, dt, a in order:
        head[n] = dict(dtype=dt, shape=list(a.shape), data_offsets=[off, off + a.nbytes]); off += a.nbytes
    h = json.dumps(head, separators=(',', ':')).encode()
    h += b' ' * (-len(h) % 8)
    with open(path, 'wb') as f:
        f.write(struct.pack('<Q', len(h)) + h)
        for _, _, a in order:
            f.write(np.ascontiguousarray(a).tobytes())
    return 8 + len(h) + off

def official_config(c):
    """The config.json of a published checkpoint, with our sizes."""
    c = dict(c, attention_bias=False, attention_dropout=0.0, initializer_range=.02, transformers_version='4.57.1', use_cache=True, expert_dtype='fp4',
             quantization_config=dict(activation_scheme='dynamic', fmt='e4m3', quant_method='fp8', scale_fmt='ue8m0', weight_block_size=[128, 128]))
    tail = [k for k in ('vocab_size', 'compress_rope_theta', 'compress_ratios') if k in c] + sorted(k for k in c if k.startswith('dspark'))
    return {k: c[k] for k in sorted(k for k in c if k not in tail) + tail}


SHARDS = 'model-00001-of-00002.safetensors', 'model-00002-of-00002.safetensors'


def write_json(folder, name, what):
    with open(os.path.join(folder, name), 'w') as f:
        json.dump(what, f, indent=2)
        f.write('\n')


def export(model, folder, quantised=True):
    """Writes config.json and model.safetensors (everything F32) or two shards with their index, the main model and the
    drafter; returns the bytes written."""
    os.makedirs(folder, exist_ok=True)
    if not quantised:
        write_json(folder, 'config.json', dict(model.c))
        return write(os.path.join(folder, 'model.safetensors'), list(tensors(model, False)))
    write_json(folder, 'config.json', official_config(model.c))
    items = list(tensors(model))
    place = {n: SHARDS[n.startswith('mtp.')] for n, _, _ in items}
    index = dict(metadata=dict(total_size=sum(a.nbytes for _, _, a in items)), weight_map=dict(sorted(place.items())))
    write_json(folder, 'model.safetensors.index.json', index)
    return sum(write(os.path.join(folder, s), [i for i in items if place[i[0]] == s]) for s in SHARDS)


def share(folder, other):
    """The first shard of `folder` becomes a link to the one of `other`, which must be the same file; so do the tokenizer's
    files.  Two drafters for one main model then cost its bytes once."""
    same = lambda n: open(os.path.join(folder, n), 'rb').read() == open(os.path.join(other, n), 'rb').read()
    assert same(SHARDS[0]), f'{folder} and {other} have different main models'
    for n in (SHARDS[0], 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json'):
        path = os.path.join(folder, n)
        if os.path.lexists(path):
            os.remove(path)
        os.symlink(os.path.join(os.path.relpath(other, folder), n), path)


def import_f32(model, folder):
    """Load an all-F32 checkpoint (the golden f32 case) into the model."""
    raw = {}
    for p in glob.glob(os.path.join(folder, 'model*.safetensors')):
        with open(p, 'rb') as f:
            head = json.loads(f.read(struct.unpack('<Q', f.read(8))[0])); data = f.read()
        for k, h in head.items():
            if k != '__metadata__':
                dt = {'F32': np.float32, 'I64': np.int64}[h['dtype']]
                raw[k] = torch.from_numpy(np.frombuffer(data[h['data_offsets'][0]:h['data_offsets'][1]], dt).reshape(h['shape']).copy())
    used = set()
    with torch.no_grad():
        for name, p in list(model.named_parameters()) + list(model.named_buffers()):
            if name.endswith(('.load', '.had')):
                continue
            n = official(name)
            if p.dim() == 3:
                base, w = n.rsplit('.', 1)
                ks = [f'{base}.{e}.{w}.weight' for e in range(len(p))]
                p.copy_(torch.stack([raw[k] for k in ks])); used |= set(ks)
            else:
                p.copy_(raw[n]); used.add(n)
    return set(raw) - used


def round_rest(model):
    """Round in place what is stored in BF16 without going through Lin (norms, embedding, head, gates)."""
    kinds = {id(m.weight) for m in model.modules() if hasattr(m, 'kind')}
    with torch.no_grad():
        for n, p in model.named_parameters():
            if id(p) not in kinds and ('norm' in n or n in ('embed.weight', 'head.weight') or n.endswith('gate.weight')):
                p.copy_(p.bfloat16().float())
