"""Time one binary 3x3 convolution in packed bits against float32, by width: where does counting bits pay?

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/packed_inference.py [--images 64] [--side 8] [--widths 16 64 256]

Compared are `companion.binary.packed.PackedConv` as the chapter on reconfigurable binary networks uses it, the counting
alone (patches already cut and packed), torch's float32 convolution with the weights ready, and the same product of
patches as one float32 matrix product in NumPy. Best of several rounds on one thread; answers must be equal.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F

from companion.binary.layers import KeyedConv
from companion.binary.packed import PackedConv, xnor_dot
from companion.seeding import generator


def best(function, rounds: int = 7) -> float:
    """Return the shortest wall time in seconds of a call."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def main() -> None:
    """Print one line for each width."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--side", type=int, default=8)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64, 256])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'width':>6} {'float32':>10} {'matrix':>10} {'packed':>10} {'counting':>10}   microseconds an image")
    for width in options.widths:
        layer = KeyedConv(width, width, 3, 1, generator(0, "weights", width), padding=1)
        x = torch.randn(options.images, width, options.side, options.side, generator=generator(0, "x")).sign()
        packed, weight = PackedConv(layer, None, pixels=False), layer.effective(0).detach()
        patches, _ = packed._patches((x.numpy() > 0).view(np.uint8))
        unfolded = F.unfold(x, 3, padding=1).transpose(1, 2).reshape(-1, packed.length).numpy()
        flat = weight.reshape(width, -1).T.numpy().copy()
        if not torch.equal(packed(x, 0), F.conv2d(x, weight, padding=1)):
            raise SystemExit(f"width {width}: packed and float32 answers differ")
        with torch.no_grad():
            times = [
                best(lambda x=x, weight=weight: F.conv2d(x, weight, padding=1)),
                best(lambda a=unfolded, b=flat: a @ b),
                best(lambda x=x, packed=packed: packed(x, 0)),
                best(lambda a=patches, packed=packed: xnor_dot(a, packed.words, packed.length)),
            ]
        print(f"{width:>6} " + " ".join(f"{1e6 * one / options.images:>10.1f}" for one in times))


if __name__ == "__main__":
    main()
