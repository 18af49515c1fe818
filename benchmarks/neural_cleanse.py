"""Time Neural Cleanse with all classes in one batch against one class after the other, on one model.

    .venv/bin/python benchmarks/neural_cleanse.py --classes 10 --steps 100

Prints the seconds of both, their ratio, and how far the results agree. Nothing here is a test: times depend on the
machine. On one CPU core both do the same arithmetic, so the gain is what small batches waste; on a GPU it is large.
"""

import argparse
import time
from dataclasses import replace

import torch

from companion.data.signs import generate
from companion.defenses.neural_cleanse import OFFICIAL, reverse_triggers
from companion.models.build import build_model
from companion.seeding import generator
from companion.training import TrainingConfig, logits, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=10, help="of the signs world (default: 10)")
    parser.add_argument("--steps", type=int, default=100, help="of each class (default: 100)")
    parser.add_argument("--batch", type=int, default=16, help="images of a step, for each class (default: 16)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model, images = trained(options.classes, options.device)
    config = replace(OFFICIAL, steps=options.steps, check_every=10, batch=options.batch, warm_up=False)
    labels = range(options.classes)

    reverse_triggers(model, images, [0], replace(config, steps=5), generator(0))  # warms up the library
    begin = time.perf_counter()
    together = reverse_triggers(model, images, labels, config, generator(0))
    batched = time.perf_counter() - begin
    begin = time.perf_counter()
    alone = [reverse_triggers(model, images, [label], config, generator(0)) for label in labels]
    looped = time.perf_counter() - begin

    norms = torch.cat([found.norms for found in alone])
    passed = int(together.steps.sum()) * config.batch
    print(f"one batch:       {batched:7.2f} s, {passed / batched:7.0f} images/s")
    print(f"class by class:  {looped:7.2f} s, ratio {looped / batched:.2f}")
    print(f"mask norms:      largest difference {float((norms - together.norms).abs().max()):.3g} pixels")
    print(f"                 {[round(float(norm), 1) for norm in together.norms]}")


def trained(classes: int, device: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """Return a small network after a short training, and the images for the search."""
    data = generate("train", 1500, classes)
    model = build_model("small_cnn", 3, classes, generator(0, "weights"), width=16)
    train(model, data.images, data.labels, TrainingConfig(epochs=4), generator(0, "training"), device=device)
    held = generate("test", 300, classes)
    share = (logits(model, held.images).argmax(1) == held.labels).float().mean()
    print(f"model:           {classes} classes, clean accuracy {100 * share:.1f} %")
    return model, held.images.to(device)


if __name__ == "__main__":
    main()
