"""The mean of two runs that share their beginning, as a run:   python3 blend.py RUN_A RUN_B OUT_RUN [SHARE_OF_B]

Parameters, balance biases and moments are averaged (half and half without SHARE_OF_B); the clock and the counts are those of B.
"""
import os, sys
import torch


def main(a, b, out, share='0.5'):
    share = float(share)
    a, b = (torch.load(f'{run}/last.pt', weights_only=False) for run in (a, b))
    if a['config'] != b['config']:
        sys.exit('blend: the two runs have different configurations')
    def mean(x, y): return torch.lerp(x, y, share) if x.is_floating_point() else y
    for k in ('flat', 'm1', 'm2'):
        b[k] = mean(a[k], b[k])
    b['buffers'] = [mean(x, y) for x, y in zip(a['buffers'], b['buffers'])]
    os.makedirs(out, exist_ok=True)
    torch.save(b, f'{out}/last.pt')


if __name__ == '__main__':
    main(*sys.argv[1:])
