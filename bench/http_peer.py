#!/usr/bin/env python3
"""What HTTP costs, here and in llama.cpp's server (as PyPI's xllamacpp carries it), both over tiny models on this machine.

    python3 -m venv env && env/bin/pip install xllamacpp gguf && env/bin/python bench/http_peer.py [--rounds N]

Run it at the top of the tree after `make`. Every round asks both servers for one streamed chat completion of one token and one of
64, each on a connection of its own. A server's own time is what it says itself (llama.cpp: `timings` in the answer; hadal: the queue, prefill
and decode times of /metrics); the rest of what the client waited is HTTP, JSON, templates and threads. Medians."""
import argparse
import http.client
import json
import os
import re
import statistics
import subprocess
import tempfile
import time

WORDS = "Please count to one hundred. " * 4
TOKENS = 64


def write_gguf(path):
    """A llama of one layer and byte tokens with random weights."""
    import gguf
    import numpy as np
    rng, width, heads, inner = np.random.default_rng(1), 64, 4, 128
    tokens = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)] + ["▁w%d" % i for i in range(253)]
    kinds = [2, 3, 3] + [6] * 256 + [1] * 253
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(4096)
    w.add_embedding_length(width)
    w.add_block_count(1)
    w.add_feed_forward_length(inner)
    w.add_head_count(heads)
    w.add_head_count_kv(heads)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_dimension_count(width // heads)
    w.add_vocab_size(len(tokens))
    w.add_tokenizer_model("llama")
    w.add_token_list(tokens)
    w.add_token_scores([-float(i) for i in range(len(tokens))])
    w.add_token_types(kinds)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    shapes = {"token_embd": (len(tokens), width), "output": (len(tokens), width), "blk.0.ffn_gate": (inner, width),
              "blk.0.ffn_up": (inner, width), "blk.0.ffn_down": (width, inner)}
    shapes.update({f"blk.0.attn_{x}": (width, width) for x in ("q", "k", "v", "output")})
    for name, shape in shapes.items():
        w.add_tensor(name + ".weight", (rng.standard_normal(shape) * 0.1).astype(np.float32))
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        w.add_tensor(name + ".weight", np.ones(width, np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Peer:
    """Asks one server, never twice the same."""
    count = 0

    def ask(self, n):
        """(seconds until the answer was whole, seconds that the server itself reports)"""
        self.count += 1
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": f"{self.count}. {WORDS}"}], "max_tokens": n, "stream": True,
                           "temperature": 0, "stream_options": {"include_usage": True}, **self.more})
        before = self.own_time()
        start = time.perf_counter()
        connection = http.client.HTTPConnection(self.address)
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        text = connection.getresponse().read().decode()
        seconds = time.perf_counter() - start
        connection.close()
        return seconds, self.report(text, before)


class Llama(Peer):
    more = {"ignore_eos": True, "cache_prompt": False}

    def __init__(self, folder):
        import xllamacpp
        path = os.path.join(folder, "tiny.gguf")
        write_gguf(path)
        p = xllamacpp.CommonParams()
        p.model.path, p.n_ctx, p.n_parallel, p.cache_prompt = path, 4096, 1, False
        p.chat_template = "chatml"
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = 1
        self.server = xllamacpp.Server(p)
        self.address = self.server.listening_address.split("//")[1]

    def own_time(self):
        return 0

    def report(self, text, _):
        times = {k: float(v) for k, v in re.findall(r'"(prompt_ms|predicted_ms)":\s*([\d.eE+-]+)', text)}
        return (times["prompt_ms"] + times["predicted_ms"]) / 1e3

    def close(self):
        del self.server


class Hadal(Peer):
    more = {"thinking": {"type": "disabled"}}

    def __init__(self, _):
        self.process = subprocess.Popen(["./hadal", "serve", "-m", "models/tiny", "--port", "0", "--threads", "1", "--keep", "-1"],
                                        stdout=subprocess.PIPE)
        self.address = self.process.stdout.readline().decode().strip().split("//")[1]
        while self.get("/health")[0] != 200:
            time.sleep(0.1)

    def get(self, path):
        connection = http.client.HTTPConnection(self.address)
        connection.request("GET", path)
        r = connection.getresponse()
        text = r.read().decode()
        connection.close()
        return r.status, text

    def own_time(self):
        text = self.get("/metrics")[1]
        return sum(float(v) for v in re.findall(r"vllm:request_(?:queue|prefill|decode)_time_seconds_sum\S* (\S+)", text))

    def report(self, _, before):
        return self.own_time() - before

    def close(self):
        self.process.terminate()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        peers = {"hadal": Hadal(folder), "llama.cpp": Llama(folder)}
        short, long = ({k: [] for k in peers} for _ in range(2))
        for i in range(rounds + 1):
            for name, peer in peers.items():
                one, many = peer.ask(1), peer.ask(TOKENS)
                if i == 0:
                    continue  # warms up
                short[name].append(one[0] - one[1])
                long[name].append(many[0] - many[1])
        for peer in peers.values():
            peer.close()
    print(f"{'HTTP adds, medians of %d rounds' % rounds:36} {'hadal':>12} {'llama.cpp':>12}")
    for what, times in (("to a reply of one token, ms", short), (f"to a reply of up to {TOKENS} tokens, ms", long)):
        values = [statistics.median(times[k]) * 1e3 for k in peers]
        print(f"{what:36} {values[0]:12.3f} {values[1]:12.3f}")


if __name__ == "__main__":
    main()
