"""The experiments of the chapter on reconfigurable binary networks (Qiu et al., IEEE TCAD 2022).

What is measured; the chapter adds prose, tables and figures, and `companion.studies.rbnn_arena` trains. Accuracies and
drops are in percent and points. Everything random follows from the arena's seed and names.
"""

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from companion.binary import device as devices
from companion.binary import keys, packed, storage
from companion.binary.networks import KeyedNetwork, build_network
from companion.binary.training import (
    accuracy,
    as_stored,
    predict,
    recalibrated,
    train_tasks,
)
from companion.errors import CompanionError
from companion.seeding import generator
from companion.statistics import Interval, Proportion
from companion.studies.rbnn_arena import Arena


def correct(arena: Arena, network: KeyedNetwork, tasks: Sequence[int]) -> list[torch.Tensor]:
    """Return for each task (n,) bool: which held-out images the network gets right; tasks in the network's order."""
    return [
        predict(network, arena.held[task].images, number).argmax(1) == arena.held[task].labels
        for number, task in enumerate(tasks)
    ]


def share_of(right: torch.Tensor) -> Proportion:
    """Return the share of right answers."""
    return Proportion(int(right.sum()), len(right))


class Drop(NamedTuple):
    """A mean drop of accuracy in points, its 95 % interval over images, and the number of images."""

    value: float
    interval: Interval
    n: int


def mean_drop(separate: Sequence[torch.Tensor], together: Sequence[torch.Tensor]) -> Drop:
    """Return how much accuracy the tasks lose on average by sharing weights.

    separate, together: right answers (n,) of each task on the same images. The interval treats the images as drawn and
    the tasks as given (normal approximation of the paired difference).
    """
    differences = [a.double() - b.double() for a, b in zip(separate, together, strict=True)]
    value = 100 * sum(float(one.mean()) for one in differences) / len(differences)
    variance = sum(float(one.var()) / len(one) for one in differences) / len(differences) ** 2
    half = 1.96 * 100 * variance**0.5
    return Drop(value, Interval(value - half, value + half, 0.95, "normal"), sum(map(len, differences)))


def rekeyed(network: KeyedNetwork, number: int, key: bytes | keys.KeyBits | None) -> KeyedNetwork:
    """Return a copy in which one task computes under another key; its batch norm stays."""
    return keys.configure(deepcopy(network), number, key)


def under_keys(arena: Arena, network: KeyedNetwork, task: int, candidates: Iterable[object]) -> np.ndarray:
    """Return the accuracies in percent of a task under each of some keys (seeds or key bits)."""
    held = arena.held[task]
    return np.array([100 * accuracy(rekeyed(network, task, key), held, task).rate for key in candidates])


def wrong_seeds(arena: Arena, task: int, count: int) -> list[bytes]:
    """Return seeds drawn at random, as somebody without a key would try them."""
    stream = generator(arena.seed, "wrong keys", arena.names[task])
    return [keys.random_bytes(keys.SEED_BYTES, stream) for _ in range(count)]


def near_seeds(arena: Arena, task: int, count: int) -> list[bytes]:
    """Return seeds that differ from the right one in a single bit."""
    bits = torch.randperm(8 * keys.SEED_BYTES, generator=generator(arena.seed, "seed bits", arena.names[task]))[:count]
    return [keys.flip_seed_bit(arena.key_seed(task), bit) for bit in bits.tolist()]


def flipped_curve(arena: Arena, network: KeyedNetwork, task: int, shares: Sequence[float]) -> np.ndarray:
    """Return accuracies in percent of a task when a share of its key bits is wrong, (len(shares),)."""
    right = keys.key_bits(network, arena.key_seed(task))
    stream = generator(arena.seed, "flipped bits", arena.names[task])
    return under_keys(arena, network, task, [keys.flip_share(right, share, stream) for share in shares])


def other_tasks_keys(arena: Arena, network: KeyedNetwork, task: int) -> np.ndarray:
    """Return accuracies in percent of a task under the right keys of the other tasks."""
    return under_keys(arena, network, task, [arena.key_seed(other) for other in range(network.tasks) if other != task])


def recalibration_attack(
    arena: Arena, network: KeyedNetwork, task: int, seeds: Iterable[bytes], count: int
) -> np.ndarray:
    """Return accuracies in percent under wrong keys after batch norm saw `count` unlabelled training images."""
    images, found = arena.train[task].images[:count], []
    for seed in seeds:
        attacked = recalibrated(rekeyed(network, task, seed), images, task)
        found.append(100 * accuracy(attacked, arena.held[task], task).rate)
    return np.array(found)


STARTS = ("wrong key", "random bits", "right key")
"""Where fine-tuning begins: stored bits under a wrong key; bits that know nothing; stored bits under the right key."""


def fine_tuning_attack(
    arena: Arena, network: KeyedNetwork, task: int, start: str, share: float, steps: int, magnitude: float = 0.1
) -> Proportion:
    """Return the held-out accuracy after training the weights on a share of the task's data, without or with its key.

    The thief has the stored bits and the task's batch norm, no latent weights; so each start is bits times
    `magnitude`. Weights and batch norm are trained together, at the training's batch size and learning rate.
    """
    stolen = as_stored(network, magnitude)
    if start == "random bits":
        stream = generator(arena.seed, "random bits", arena.names[task])
        for layer in stolen.layers().values():
            bits = torch.randint(2, layer.weight.shape, generator=stream)
            layer.weight.data = (2 * bits - 1) * magnitude
    elif start == "wrong key":
        keys.configure(stolen, task, wrong_seeds(arena, task, 1)[0])
    elif start != "right key":
        raise CompanionError(f"no start {start!r} of fine-tuning; there are {', '.join(STARTS)}.")
    data = arena.train[task]
    few = data.subset(torch.arange(max(2, round(share * len(data)))))
    stream = generator(arena.seed, "fine-tuning", arena.names[task])
    train_tasks(stolen, [few], arena.training, [stream], tasks=[task], steps=steps)
    return accuracy(stolen, arena.held[task], task)


class Access(NamedTuple):
    """Accuracies in percent of each task (tasks, trials) for each pair of user and device."""

    right: np.ndarray
    wrong_device: np.ndarray
    wrong_user: np.ndarray


def access(arena: Arena, network: KeyedNetwork, others: int, noise: float) -> Access:
    """Enroll a device, wrap every task's seed for a user, and let others try.

    others: devices that run the right user's key and helper data, and users on the right device.
    """
    stream = generator(arena.seed, "access")
    puf = devices.Puf.made(stream, noise)
    root, helper = devices.enroll(puf, stream)
    user = keys.random_bytes(devices.USER_BYTES, stream)
    wrapped = [devices.wrap(arena.key_seed(task), user, root, task) for task in range(network.tasks)]
    right_root = devices.reproduce(puf.read(stream), helper)
    stolen = [devices.reproduce(_other_read(noise, stream), helper, verify=False) for _ in range(others)]
    users = [keys.random_bytes(devices.USER_BYTES, stream) for _ in range(others)]

    def tried(pairs: Sequence[tuple[bytes, bytes]]) -> np.ndarray:
        seeds = [[devices.unwrap(one, u, r, task) for u, r in pairs] for task, one in enumerate(wrapped)]
        return np.stack([under_keys(arena, network, task, found) for task, found in enumerate(seeds)])

    return Access(
        tried([(user, right_root)]),
        tried([(user, other) for other in stolen]),
        tried([(other, right_root) for other in users]),
    )


def _other_read(noise: float, stream: torch.Generator) -> np.ndarray:
    return devices.Puf.made(stream, noise).read(stream)


def key_failures(arena: Arena, noises: Sequence[float], reads: int) -> list[Proportion]:
    """Return for each read noise how often a device cannot reproduce its root key."""
    stream = generator(arena.seed, "puf")
    found = []
    for noise in noises:
        puf = devices.Puf.made(stream, noise)
        root, helper = devices.enroll(puf, stream)
        found.append(Proportion(devices.count_failures(puf, helper, root, reads, stream), reads))
    return found


class Sizes(NamedTuple):
    """Bytes: of the file of binary weights; of all files of M tasks; of weights in float32 for M networks."""

    weights: int
    everything: int
    float32: int


def file_sizes(network: KeyedNetwork) -> Sizes:
    """Write a network to disk as it would lie on a device and return the sizes of the files."""
    with tempfile.TemporaryDirectory() as folder:
        weights = storage.save_weights(network, Path(folder) / "weights")
        tasks = [
            storage.save_task(network, task, bytes(keys.SEED_BYTES), Path(folder) / f"task{task}")
            for task in range(network.tasks)
        ]
    helper = 4 + (devices.CELLS + 7) // 8 + 32
    return Sizes(weights, weights + sum(tasks) + helper, 4 * network.binary_weights() * network.tasks)


def sizes_of_separate(networks: Sequence[KeyedNetwork]) -> Sizes:
    """Return the sizes of networks with one task each, added up; they need no key, so no seed and no helper data."""
    found = [file_sizes(one) for one in networks]
    helper = 4 + (devices.CELLS + 7) // 8 + 32
    return Sizes(
        sum(one.weights for one in found),
        sum(one.everything - helper - keys.SEED_BYTES for one in found),
        sum(one.float32 for one in found),
    )


def from_disk(arena: Arena, network: KeyedNetwork, architecture: str, task: int) -> KeyedNetwork:
    """Write a network's files, read them into a freshly built network and set the key of one task."""
    copy = build_network(
        architecture, network.classes, arena.widths[architecture], generator(arena.seed, "empty"), side=arena.side
    )
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "weights", Path(folder) / "task"
        storage.save_weights(network, files[0])
        storage.save_task(network, task, arena.key_seed(task), files[1])
        storage.load_weights(copy, files[0])
        seed = storage.load_task(copy, task, files[1])
    return keys.configure(copy, task, seed).eval()


def packed_answers(arena: Arena, network: KeyedNetwork, task: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (count, classes) of a task by float emulation and by packed bits."""
    images = arena.held[task].images[:count]
    bits = packed.packed_network(network, keys.key_bits(network, arena.key_seed(task)))
    return predict(network, images, task), predict(bits, images, task)


def seconds_an_image(arena: Arena, network: KeyedNetwork, task: int, batch: int, rounds: int = 5) -> dict[str, float]:
    """Return the best of `rounds` wall times an image: float32 with the weights ready, and packed bits."""
    images = arena.held[task].images[:batch]
    ways = {
        "float32": packed.float_network(network, task),
        "packed bits": packed.packed_network(network, keys.key_bits(network, arena.key_seed(task))),
    }
    return {
        name: _best(lambda one=one: predict(one, images, task, batch), rounds) / batch for name, one in ways.items()
    }


def _best(function: Callable[[], object], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return min(times)


def alike(network: KeyedNetwork, first: int, second: int) -> float:
    """Return the share in percent of binary weights that two tasks use with the same sign."""
    same = [(one.effective(first) == one.effective(second)).float().flatten() for one in network.layers().values()]
    return 100 * float(torch.cat(same).mean())


def column(answers: Sequence[torch.Tensor], rows: int) -> list[object]:
    """Return accuracies in percent of tasks for a table's column with `rows` rows, "-" where there is no task."""
    found = [round(100 * share_of(right).rate, 1) for right in answers]
    return [*found, *["-"] * (rows - len(found))]


def ends(drop: Drop) -> tuple[float, float]:
    """Return the ends of a drop's interval."""
    return drop.interval.low, drop.interval.high


def draw_drops(
    ax: object, drops: Mapping[tuple[str, int], Drop], architecture: str, place: int, **line: object
) -> None:
    """Draw mean drops of an architecture against M with their intervals, a little aside by its `place`."""
    chosen = [(m + 0.15 * place, drop) for (name, m), drop in drops.items() if name == architecture]
    values = [drop.value for _, drop in chosen]
    errors = [[drop.value - ends(drop)[0] for _, drop in chosen], [ends(drop)[1] - drop.value for _, drop in chosen]]
    ax.errorbar([m for m, _ in chosen], values, errors, fmt="o-", capsize=3, label=architecture, **line)
