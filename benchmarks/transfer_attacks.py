"""Time transfer attacks against torchattacks on the same network and images, and compare what they achieve.

    uv pip install --target build/torchattacks torchattacks --no-deps
    PYTHONPATH=build/torchattacks .venv/bin/python benchmarks/transfer_attacks.py [--data digits] [--images 8 100]

torchattacks is no dependency of the book; the first line puts it beside. Printed for each attack: success on the
network attacked and on another one, the share of pixels that both libraries give alike (where the definitions agree
that should be all but a few, whose gradient is zero but for rounding), and how many times faster ours is in the best
of several rounds, in processor time on one thread. Ours puts all copies of an image into one pass. That helps while
passes are small, and cannot help where a pass of the peer already keeps the core busy.
"""

import argparse
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from companion.attacks.transfer.gradients import LookAhead, VarianceTuned
from companion.attacks.transfer.method import Method, attack
from companion.attacks.transfer.rules import Momentum
from companion.attacks.transfer.state import Budget
from companion.attacks.transfer.transforms import ResizePad, Scales
from companion.data import catalogue
from companion.models.zoo import build_surrogate
from companion.seeding import generator
from companion.training import TrainingConfig, logits, train

STEPS = 10
EPS = {"signs": 8 / 255, "digits": 0.15}
PLAIN = Momentum(0.0)
OURS = {
    "FGSM": (Method(rule=PLAIN, single_step=True), "equal"),
    "PGD (no random start)": (Method(rule=PLAIN), "equal"),
    "MI-FGSM": (Method(), "equal"),
    "DI-FGSM": (Method(transform=ResizePad((1.1,), 0.5), rule=PLAIN), "other resizing, one draw a batch"),
    "TI-FGSM": (Method(smoothing=15, rule=PLAIN), "equal"),
    "SI-NI-FGSM": (Method(LookAhead(), Scales(5)), "equal"),
    "VMI-FGSM": (Method(VarianceTuned(5)), "other draws"),
}


def theirs(torchattacks, model: torch.nn.Module, budget: Budget) -> dict:
    """Return torchattacks' attacks under the names of OURS, with the same settings."""
    shared = {"eps": budget.eps, "alpha": budget.size, "steps": STEPS}
    return {
        "FGSM": torchattacks.FGSM(model, budget.eps),
        "PGD (no random start)": torchattacks.PGD(model, random_start=False, **shared),
        "MI-FGSM": torchattacks.MIFGSM(model, decay=1.0, **shared),
        "DI-FGSM": torchattacks.DIFGSM(model, decay=0.0, resize_rate=0.9, diversity_prob=0.5, **shared),
        "TI-FGSM": torchattacks.TIFGSM(model, decay=0.0, len_kernel=15, diversity_prob=0.0, **shared),
        "SI-NI-FGSM": torchattacks.SINIFGSM(model, decay=1.0, m=5, **shared),
        "VMI-FGSM": torchattacks.VMIFGSM(model, decay=1.0, N=5, beta=1.5, **shared),
    }


def trained(family: str, data) -> torch.nn.Module:
    """Return a network trained for seconds."""
    channels, side, _ = data.shape
    model = build_surrogate(family, channels, len(data.classes), side, generator(0, family))
    train(model, data.images[:2000], data.labels[:2000], TrainingConfig(epochs=5), generator(0, "training", family))
    return model


def timed(call) -> tuple[torch.Tensor, float]:
    """Return what `call` returns and its processor seconds."""
    begin = time.process_time()
    found = call()
    return found, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=list(EPS), default="signs", help="32x32x3 or 16x16x1 (default: signs)")
    parser.add_argument("--images", type=int, nargs="+", default=[8, 100], help="the peer's batches (default: 8 100)")
    parser.add_argument("--rounds", type=int, default=5, help="of which the best counts (default: 5)")
    options = parser.parse_args()
    try:
        import torchattacks
    except ImportError as error:
        raise SystemExit(f"{error}: install torchattacks beside the book, as this file's first lines say.") from None
    torch.set_num_threads(1)
    learnt, pool = (catalogue.load(options.data, split) for split in ("train", "test"))
    surrogate, other = trained("cnn", learnt), trained("resnet", learnt)
    pool = pool.subset(torch.arange(min(600, len(pool))))
    right = [logits(model, pool.images).argmax(1) == pool.labels for model in (surrogate, other)]
    for count in options.images:
        data = pool.subset((right[0] & right[1]).nonzero().flatten()[:count])
        compare(torchattacks, surrogate, other, data, EPS[options.data], options.rounds)


def compare(torchattacks, surrogate: torch.nn.Module, other: torch.nn.Module, data, eps: float, rounds: int) -> None:
    """Print a line for each attack on the images of `data`."""
    budget = Budget(eps, STEPS, eps / 4)
    print(f"{len(data)} images {data.shape}, eps {eps:.4f}, {STEPS} steps; success here / elsewhere in percent")
    print(
        f"{'attack':<22} {'ours':>11} {'torchattacks':>13} {'alike':>7} {'ours [s]':>9} {'theirs [s]':>10} {'ratio':>6}"
    )
    for name, peer in theirs(torchattacks, surrogate, budget).items():
        method, definition = OURS[name]
        best = [float("inf"), float("inf")]
        for _ in range(rounds):
            mine, took = timed(lambda method=method: attack(method, surrogate, data.images, data.labels, budget, 0))
            best[0] = min(best[0], took)
            try:
                yours, took = timed(lambda peer=peer: peer(data.images, data.labels))
            except RuntimeError as error:  # its TI takes images of three channels only
                print(f"{name:<22} {best[0]:.3f} s, and torchattacks cannot: {str(error)[:60]}")
                break
            best[1] = min(best[1], took)
        if best[1] == float("inf"):
            continue
        alike = ((mine - yours).abs() < 1e-5).float().mean()
        shares = [success(model, found, data.labels) for found in (mine, yours) for model in (surrogate, other)]
        print(
            f"{name:<22} {shares[0]:5.0f}/{shares[1]:5.0f} {shares[2]:7.0f}/{shares[3]:5.0f} {100 * alike:6.1f}% "
            f"{best[0]:9.3f} {best[1]:10.3f} {best[1] / best[0]:6.2f}  {definition}",
            flush=True,
        )


def success(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * float((logits(model, images).argmax(1) != labels).float().mean())


if __name__ == "__main__":
    main()
