"""Episodes of few-shot classification: N classes, K support images and Q queries of each, many episodes at once.

Source: N-way K-shot episodes of novel classes (Vinyals et al. 2016), Q = 15 queries a class.
"""

from dataclasses import dataclass, replace

import torch

from companion.data.imageset import ImageSet
from companion.errors import CompanionError


@dataclass(frozen=True)
class Episodes:
    """E episodes of one size.

    support: (E, N K, C, H, W) float32 in [0, 1], class after class, so that the target class 0 has the first K;
    labels: (E, N K) int64 in [0, N), what the learner is told; query: (E, N Q, C, H, W); answers: (E, N Q), the truth.
    """

    support: torch.Tensor
    labels: torch.Tensor
    query: torch.Tensor
    answers: torch.Tensor
    ways: int
    shots: int

    def __len__(self) -> int:
        return len(self.support)

    def first(self, count: int) -> "Episodes":
        """Return the first `count` episodes."""
        if not 1 <= count <= len(self):
            raise CompanionError(f"{count} episodes were asked for; expected 1 to {len(self)}, as many as were drawn.")
        cut = {name: getattr(self, name)[:count] for name in ("support", "labels", "query", "answers")}
        return replace(self, **cut)

    def told(self, support: torch.Tensor, labels: torch.Tensor | None = None) -> "Episodes":
        """Return the same episodes with other support images, and labels where they are given."""
        return replace(self, support=support, labels=self.labels if labels is None else labels)


def draw_episodes(
    data: ImageSet, count: int, ways: int, shots: int, queries: int, generator: torch.Generator
) -> Episodes:
    """Draw `count` episodes: for each, `ways` classes, and `shots` + `queries` different images of each class.

    Raises CompanionError for counts below 1 (ways below 2), more ways than classes, and classes with too few images.

    >>> episodes = draw_episodes(data, 10, ways=5, shots=1, queries=15, generator=generator(0))  # doctest: +SKIP
    >>> episodes.support.shape  # doctest: +SKIP
    torch.Size([10, 5, 3, 32, 32])
    """
    for name, value, least in (("episodes", count, 1), ("ways", ways, 2), ("shots", shots, 1), ("queries", queries, 1)):
        if value < least:
            raise CompanionError(f"few-shot episodes with {name} = {value}: expected at least {least}.")
    members = [(data.labels == label).nonzero().squeeze(1) for label in range(len(data.classes))]
    usable = [label for label, found in enumerate(members) if len(found) >= shots + queries]
    if len(usable) < ways:
        raise CompanionError(
            f"{ways}-way episodes with {shots} + {queries} images a class: {len(usable)} of the {len(data.classes)} "
            f"classes of {data.name}/{data.split} have as many images. Load more images or ask for fewer."
        )
    chosen = torch.empty(count, ways, shots + queries, dtype=torch.int64)
    for episode in range(count):
        classes = torch.randperm(len(usable), generator=generator)[:ways]
        for way, place in enumerate(classes.tolist()):
            found = members[usable[place]]
            order = torch.randperm(len(found), generator=generator)[: shots + queries]
            chosen[episode, way] = found[order]
    names = torch.arange(ways).view(1, ways, 1)
    labels = names.expand(count, ways, shots).flatten(1)
    answers = names.expand(count, ways, queries).flatten(1)
    support, query = chosen[:, :, :shots].flatten(1), chosen[:, :, shots:].flatten(1)
    return Episodes(data.images[support], labels, data.images[query], answers, ways, shots)
