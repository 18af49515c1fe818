"""Time shadow models trained side by side (`companion.fleet`) against the same models one after another.

    .venv/bin/python benchmarks/fleet_training.py --models 128 --batch 16

Both train the networks of MNTD's shadows in this book (two convolutions, 16 x 16 grey images) on the same batches with
the same fused Adam. Prints images per second, the ratio, and how far the resulting networks differ. Nothing here is a
test: times depend on the machine. Measured on one quiet core of an AMD EPYC: see the chapter on countermeasures.
"""

import argparse
import time

import torch
import torch.nn.functional as F

from companion.fleet import Fleet, FleetTraining, fleet_logits, train_fleet
from companion.models.conv import ARCHITECTURES, build_conv
from companion.seeding import generator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=128, help="trained side by side (default: 128)")
    parser.add_argument("--alone", type=int, default=6, help="of them also one after another (default: 6)")
    parser.add_argument("--images", type=int, default=144, help="of each model (default: 144)")
    parser.add_argument("--batch", type=int, default=16, help="images of a step (default: 16)")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="conv2")
    parser.add_argument("--chunk", type=int, default=64, help="models in one stack (default: 64)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = FleetTraining(options.epochs, options.batch, decay=False)
    stream = generator(0, "benchmark")
    images = torch.rand(options.models, options.images, 1, 16, 16, generator=stream)
    labels = torch.randint(10, (options.models, options.images), generator=stream)
    alone = [build_conv(options.architecture, (1, 16, 16), 10, generator(k)) for k in range(options.models)]
    parts = [slice(k, min(k + options.chunk, options.models)) for k in range(0, options.models, options.chunk)]
    fleets = [Fleet.of(alone[part]) for part in parts]
    train_fleet(fleets[0].part(slice(0, 2)), images[:2], labels[:2], config, generator(0))  # warms up the library

    begin = time.perf_counter()
    for fleet, part in zip(fleets, parts, strict=True):
        train_fleet(fleet, images[part], labels[part], config, generator(1))
    together = (time.perf_counter() - begin) / options.models
    orders = draw_orders(len(fleets[0]), options.images, options.epochs)
    begin = time.perf_counter()
    for m in range(options.alone):
        train_alone(alone[m], images[m], labels[m], [order[m] for order in orders], config)
    apart = (time.perf_counter() - begin) / options.alone

    seen = options.epochs * (options.images // options.batch) * options.batch
    own = torch.stack([alone[m](images[0]) for m in range(options.alone)]).detach()
    gap = float((fleet_logits(fleets[0], images[0])[: options.alone] - own).abs().max())
    print(f"side by side:       {1000 * together:8.1f} ms a model, {seen / together:8.0f} images/s")
    print(f"one after another:  {1000 * apart:8.1f} ms a model, {seen / apart:8.0f} images/s")
    print(f"ratio:              {apart / together:8.2f}")
    print(f"largest difference of a logit: {gap:.2g}")


def draw_orders(models: int, count: int, epochs: int) -> list[torch.Tensor]:
    """Return the orders of images (models, count) that `train_fleet` draws for the first stack, one an epoch."""
    stream = generator(1)
    return [torch.rand(models, count, generator=stream).argsort(1) for _ in range(epochs)]


def train_alone(model, images, labels, orders, config: FleetTraining) -> None:
    """Train one network as `train_fleet` does, without a stack."""
    optimizer = torch.optim.Adam(model.parameters(), config.learning_rate, fused=True)
    for order in orders:
        for step in range(len(labels) // config.batch_size):
            chosen = order[step * config.batch_size : (step + 1) * config.batch_size]
            loss = F.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


if __name__ == "__main__":
    main()
