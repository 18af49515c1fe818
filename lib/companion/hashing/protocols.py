"""Which images are queries, training images and database: the three CIFAR-10 protocols of the hashing literature.

Counts as the official code of weighted contrastive hashing has them, after DeepHash-pytorch. Sampling is by class and
seeded, and the database is shuffled once, so that ties in a ranking do not follow the classes.
"""

from dataclasses import dataclass

import torch

from companion.errors import CompanionError


@dataclass(frozen=True)
class Protocol:
    """Images of each class that are queries and training images, whether the database is all but the queries ("rest"),
    the rest without the training images ("unseen"), or the training images ("train"), and K of mAP@K."""

    queries: int
    train: int
    database: str
    top: int = 1000

    def __post_init__(self):
        if self.database not in ("rest", "unseen", "train") or min(self.queries, self.train, self.top) < 1:
            raise CompanionError(f"{self}: expected positive counts and a database of rest, unseen or train.")


PROTOCOLS = {
    "cifar10": Protocol(queries=100, train=500, database="unseen"),
    "cifar10-1": Protocol(queries=100, train=500, database="rest"),
    "cifar10-2": Protocol(queries=1000, train=5000, database="train"),
}


def protocol(name: str) -> Protocol:
    """Return a protocol of the literature by its name; raises CompanionError for an unknown one."""
    if name not in PROTOCOLS:
        raise CompanionError(f"there is no protocol {name!r}: expected one of {', '.join(PROTOCOLS)}.")
    return PROTOCOLS[name]


@dataclass(frozen=True)
class Roles:
    """Positions of the queries, the training images and the database in a data set, int64; the database is shuffled."""

    queries: torch.Tensor
    train: torch.Tensor
    database: torch.Tensor


def assign(labels: torch.Tensor, rule: Protocol, generator: torch.Generator, limit: int | None = None) -> Roles:
    """Draw the roles of a protocol among images with `labels` (N,).

    The queries of a class are the first of its shuffled images and the training images are the last, so that for one
    generator seed the training images of a smaller protocol are no queries of a larger one. limit: at most so many
    database images a class; None takes all.
    Raises CompanionError if a class has too few images or the database would be empty.
    """
    parts = {"queries": [], "train": [], "database": []}
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        if len(members) < rule.queries + rule.train:
            raise CompanionError(
                f"class {label} has {len(members)} images; the protocol asks for {rule.queries} queries and "
                f"{rule.train} training images of each class. Take a larger data set or smaller counts."
            )
        members = members[torch.randperm(len(members), generator=generator)]
        end = len(members) - rule.train
        chosen = {"train": members[end:], "unseen": members[rule.queries : end], "rest": members[rule.queries :]}
        parts["queries"].append(members[: rule.queries])
        parts["train"].append(members[end:])
        parts["database"].append(chosen[rule.database][:limit])
    roles = {name: torch.cat(part) for name, part in parts.items()}
    roles = {name: part[torch.randperm(len(part), generator=generator)] for name, part in roles.items()}
    if not len(roles["database"]):
        raise CompanionError(
            f"the database is empty: of each class {rule.queries} images are queries and {rule.train} are for "
            "training, and nothing is left. Take a larger data set, or a protocol whose database is `rest` or `train`."
        )
    return Roles(**roles)
