"""The tasks and trained networks of the chapter on reconfigurable binary networks: what shares weights with what.

Apart from the measurements (`companion.studies.rbnn`), so that a change of those trains nothing anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import torch

from companion.binary import keys
from companion.binary.networks import KeyedNetwork, build_network
from companion.binary.tasks import Task, digest, load_task
from companion.binary.training import BinaryTraining, train_tasks
from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.errors import CompanionError
from companion.seeding import generator
from companion.store import ModelStore

_SIGNS = (0, 3, 6, 9, 10, 11, 12)  # seven of the generated signs, each on a plate of its own
_REAL_SIGNS = (1, 2, 4, 9, 12, 13, 14, 17, 25, 38)  # ten frequent classes

TASKS = {
    "embedded": (
        Task("digits", "digits"),
        Task("tones", "tones", modality="audio"),
        Task("plates", "marks", {"task": "plates"}),
        Task("faces", "faces", {"task": "identity", "people": 8}),
        Task("signs", "signs", {"classes": 13}, keep=_SIGNS),
        Task("pictograms", "marks", {"task": "pictograms"}),
        Task("textures", "marks", {"task": "textures"}),
    ),
    "real": (
        Task("digits", "mnist_t10k"),
        Task("spoken", "fsdd", modality="audio"),
        Task("fashion", "fashion_mnist"),
        Task("faces", "faces", {"task": "identity", "people": 8}),
        Task("signs", "gtsrb32", keep=_REAL_SIGNS),
        Task("objects", "cifar10"),
        Task("clothing", "clothing_cc0_64"),
    ),
}
"""Seven tasks each, six of pictures and one of sounds; M tasks are the first M."""

SHARING = ("keyed", "no keys", "one after the other", "one batch norm")
"""How tasks share a set of weights: the method; the same without keys; the method, but trained task after task; the
method with one batch norm for all tasks."""


@dataclass(frozen=True)
class Arena:
    """Tasks, networks and training of one run.

    tasks: a key of TASKS; side: of the square pictures; train_size, test_size: at most so many of each task; widths:
    of each architecture's first layer; training: the same for every network; seed; device.
    """

    tasks: str
    side: int
    train_size: int
    test_size: int
    widths: Mapping[str, int]
    training: BinaryTraining
    seed: int
    device: str = "cpu"

    def __post_init__(self):
        if self.tasks not in TASKS:
            raise CompanionError(f"no set of tasks {self.tasks!r}; there are {', '.join(TASKS)}.")

    @property
    def all_tasks(self) -> tuple[Task, ...]:
        """The seven tasks."""
        return TASKS[self.tasks]

    @cached_property
    def train(self) -> list[ImageSet]:
        """Training images of all tasks."""
        return [load_task(task, "train", self.train_size, self.side) for task in self.all_tasks]

    @cached_property
    def held(self) -> list[ImageSet]:
        """Held-out images of all tasks."""
        return [load_task(task, "test", self.test_size, self.side) for task in self.all_tasks]

    @property
    def names(self) -> list[str]:
        """Names of the seven tasks."""
        return [task.name for task in self.all_tasks]

    def index(self, modality: str) -> int:
        """Return the number of the first task of a modality."""
        return [task.modality for task in self.all_tasks].index(modality)

    def key_seed(self, task: int) -> bytes:
        """Return the seed of a task's key stream, the same in any company."""
        return keys.random_bytes(keys.SEED_BYTES, generator(self.seed, "key", self.names[task]))

    def chance(self, task: int) -> float:
        """Return the accuracy in percent of the best constant answer on the held-out images."""
        labels = self.held[task].labels
        return 100 * float(labels.bincount().max()) / len(labels)


def train_network(
    arena: Arena,
    architecture: str,
    tasks: Sequence[int],
    store: ModelStore,
    sharing: str = "keyed",
    width: int | None = None,
) -> KeyedNetwork:
    """Return the network of an architecture for some tasks of an arena, from the store or trained now, keys set.

    A network of one task is an ordinary binary network; a key would make no difference but to its initial weights.
    sharing: one of SHARING; width: of the first layer, if not the arena's. All networks of a width start from the same
    latent weights and draw the same batches of a task.
    """
    if sharing not in SHARING:
        raise CompanionError(f"no way of sharing {sharing!r}; there are {', '.join(SHARING)}.")
    tasks = list(tasks)
    chosen = [arena.all_tasks[task] for task in tasks]
    width = arena.widths[architecture] if width is None else width
    recipe = {
        "kind": "keyed binary network",
        "architecture": architecture,
        "width": width,
        "tasks": [asdict(task) for task in chosen],
        "side": arena.side,
        "train_size": arena.train_size,
        "training": arena.training,
        "sharing": sharing,
        "seed": arena.seed,
        "device": torch.device(arena.device).type,
    }
    modules = ["companion.studies.rbnn_arena", *(catalogue.loader_module(task.data) for task in chosen)]
    network = _fresh(arena, architecture, width, tasks, sharing)
    stored = store.get_or_train(recipe, lambda: _trained(arena, network, tasks, sharing), modules, digest(chosen))
    network.load_state_dict(stored.state)
    return network.cpu().eval()


def _fresh(arena: Arena, architecture: str, width: int, tasks: list[int], sharing: str) -> KeyedNetwork:
    classes = tuple(len(arena.train[task].classes) for task in tasks)
    network = build_network(
        architecture,
        classes,
        width,
        generator(arena.seed, "weights"),
        side=arena.side,
        shared_norm=sharing == "one batch norm",
    )
    if sharing != "no keys" and len(tasks) > 1:
        keys.configure_all(network, [arena.key_seed(task) for task in tasks])
    return network


def _trained(arena: Arena, network: KeyedNetwork, tasks: list[int], sharing: str) -> tuple[dict, dict]:
    network.to(arena.device)
    for layer in network.layers().values():
        layer.keys = [None if key is None else key.to(arena.device) for key in layer.keys]
    data = [arena.train[task] for task in tasks]
    streams = [generator(arena.seed, "batches", arena.names[task]) for task in tasks]
    if sharing == "one after the other":
        for number, (one, stream) in enumerate(zip(data, streams, strict=True)):
            train_tasks(network, [one], arena.training, [stream], tasks=[number])
    else:
        train_tasks(network, data, arena.training, streams)
    return network.state_dict(), {"tasks": [arena.names[task] for task in tasks]}
