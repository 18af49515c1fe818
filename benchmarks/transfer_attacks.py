"""Time transfer attacks against torchattacks on the same network and images, and compare what they achieve.

    uv pip install --target build/torchattacks torchattacks --no-deps
    PYTHONPATH=build/torchattacks .venv/bin/python benchmarks/transfer_attacks.py [--images 100] [--rounds 3]

torchattacks is no dependency of the book; the first line puts it beside. Printed for each attack: success on the
network attacked and on another one, the share of pixels that both libraries give alike (where the definitions agree
that should be all but a few, whose gradient is zero but for rounding), and how many times faster ours is in the best
of several rounds, in processor time on one thread.
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
from companion.data.signs import generate
from companion.models.zoo import build_surrogate
from companion.seeding import generator
from companion.training import TrainingConfig, logits, train

EPS, ALPHA, STEPS = 8 / 255, 2 / 255, 10
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


def theirs(torchattacks, model: torch.nn.Module) -> dict:
    """Return torchattacks' attacks under the names of OURS, with the same settings."""
    shared = {"eps": EPS, "alpha": ALPHA, "steps": STEPS}
    return {
        "FGSM": torchattacks.FGSM(model, EPS),
        "PGD (no random start)": torchattacks.PGD(model, random_start=False, **shared),
        "MI-FGSM": torchattacks.MIFGSM(model, decay=1.0, **shared),
        "DI-FGSM": torchattacks.DIFGSM(model, decay=0.0, resize_rate=0.9, diversity_prob=0.5, **shared),
        "TI-FGSM": torchattacks.TIFGSM(model, decay=0.0, len_kernel=15, diversity_prob=0.0, **shared),
        "SI-NI-FGSM": torchattacks.SINIFGSM(model, decay=1.0, m=5, **shared),
        "VMI-FGSM": torchattacks.VMIFGSM(model, decay=1.0, N=5, beta=1.5, **shared),
    }


def trained(family: str) -> torch.nn.Module:
    """Return a network trained for seconds on the signs world."""
    data = generate("train", 2000)
    model = build_surrogate(family, 3, 10, 32, generator(0, family))
    train(model, data.images, data.labels, TrainingConfig(epochs=5), generator(0, "training", family))
    return model


def timed(call) -> tuple[torch.Tensor, float]:
    """Return what `call` returns and its processor seconds."""
    begin = time.process_time()
    found = call()
    return found, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100, help="under attack, in one batch (default: 100)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the best counts (default: 3)")
    options = parser.parse_args()
    try:
        import torchattacks
    except ImportError as error:
        raise SystemExit(f"{error}: install torchattacks beside the book, as this file's first lines say.") from None
    torch.set_num_threads(1)
    surrogate, other = trained("cnn"), trained("resnet")
    pool = generate("test", 600)
    right = [logits(model, pool.images).argmax(1) == pool.labels for model in (surrogate, other)]
    data = pool.subset((right[0] & right[1]).nonzero().flatten()[: options.images])
    budget = Budget(EPS, STEPS, ALPHA)
    print(f"{len(data)} images of 32x32, eps 8/255, {STEPS} steps; success here / elsewhere in percent")
    print(
        f"{'attack':<22} {'ours':>11} {'torchattacks':>13} {'alike':>7} {'ours [s]':>9} {'theirs [s]':>10} {'ratio':>6}"
    )
    for name, peer in theirs(torchattacks, surrogate).items():
        method, definition = OURS[name]
        best = [float("inf"), float("inf")]
        for _ in range(options.rounds):
            mine, took = timed(lambda method=method: run(method, surrogate, data, budget))
            best[0] = min(best[0], took)
            yours, took = timed(lambda peer=peer: peer(data.images, data.labels))
            best[1] = min(best[1], took)
        alike = ((mine - yours).abs() < 1e-5).float().mean()
        shares = [success(model, found, data.labels) for found in (mine, yours) for model in (surrogate, other)]
        print(
            f"{name:<22} {shares[0]:5.0f}/{shares[1]:5.0f} {shares[2]:7.0f}/{shares[3]:5.0f} {100 * alike:6.1f}% "
            f"{best[0]:9.2f} {best[1]:10.2f} {best[1] / best[0]:6.2f}  {definition}"
        )


def run(method: Method, model: torch.nn.Module, data, budget: Budget) -> torch.Tensor:
    return attack(method, model, data.images, data.labels, budget, 0, batch_size=len(data))


def success(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return 100 * float((logits(model, images).argmax(1) != labels).float().mean())


if __name__ == "__main__":
    main()
