"""Train several small networks of one architecture: one after another, or all at once with torch.func and vmap.

    .venv/bin/python benchmarks/zoo_training.py [--networks 8] [--images 256]

Both ways take the same steps of SGD with Nesterov momentum on the same batches, on one thread; printed are images per
second (of processor time, images counted once for each network) of the best of several rounds, and how far the weights
are apart after the first step. The zoo of the chapter `sac` uses the faster way; `companion.ownership.zoo` says which.
"""

import argparse
import copy
import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, stack_module_state, vmap

from companion.models.zoo import build_surrogate
from companion.seeding import generator

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
BATCH = 64


def networks(family: str, count: int, width: int) -> list[torch.nn.Module]:
    """Return `count` networks in training mode with weights of their own."""
    built = [build_surrogate(family, 3, 10, 32, generator(seed, "weights"), width=width) for seed in range(count)]
    return [network.train() for network in built]


def one_after_another(models: list[torch.nn.Module], batches: list[tuple]) -> list[torch.nn.Module]:
    """Train each network in turn, as the zoo of the chapter does; the layout is channels_last."""
    for model in models:
        optimizer = torch.optim.SGD(model.parameters(), **SETTINGS)
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(images.contiguous(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()
    return models


def all_at_once(models: list[torch.nn.Module], batches: list[tuple]) -> list[torch.nn.Module]:
    """Train all networks in lockstep: their weights stacked, the gradient mapped over the stack."""
    parameters, buffers = stack_module_state(models)
    skeleton = copy.deepcopy(models[0]).to("meta")
    optimizer = torch.optim.SGD(parameters.values(), **SETTINGS)

    def loss(parameters, buffers, images, labels):
        return F.cross_entropy(functional_call(skeleton, (parameters, buffers), (images,)), labels)

    gradients = vmap(grad(loss), in_dims=(0, 0, None, None))
    for images, labels in batches:
        found = gradients(parameters, buffers, images, labels)
        for name, value in parameters.items():
            value.grad = found[name]
        optimizer.step()
    for index, model in enumerate(models):
        model.load_state_dict({name: value[index] for name, value in {**parameters, **buffers}.items()})
    return models


def largest_difference(family: str, width: int, batches: list[tuple]) -> float:
    """Return the largest difference of a weight between the two ways after one step."""
    ways = [train(networks(family, 2, width), batches[:1]) for train in (one_after_another, all_at_once)]
    pairs = zip(ways[0][1].parameters(), ways[1][1].parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def main() -> None:
    """Print one line for each family."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", type=int, default=8)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    images = torch.rand(options.images, 3, 32, 32, generator=generator(0, "images"))
    batches = list(zip(images.split(BATCH), (torch.arange(options.images) % 10).split(BATCH), strict=True))
    for family in ("cnn", "resnet", "mobile"):
        rates = {}
        for train in (one_after_another, all_at_once):
            train(networks(family, 2, options.width), batches[:1])  # warm up
            seconds = []
            for _ in range(options.rounds):
                models = networks(family, options.networks, options.width)
                begin = time.process_time()
                train(models, batches)
                seconds.append(time.process_time() - begin)
            rates[train.__name__] = options.networks * options.images / min(seconds)
        apart = largest_difference(family, options.width, batches)
        print(f"{family:8}", *(f"{name} {rate:7.0f}/s" for name, rate in rates.items()), f"apart {apart:.1e}")


if __name__ == "__main__":
    main()
