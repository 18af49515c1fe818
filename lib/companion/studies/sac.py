"""The experiments of the chapter `sac`: distances to the source, what separates them, and what a fingerprint costs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.ownership import baselines
from companion.ownership.correlation import correlation, correlation_distance
from companion.ownership.corruptions import CORRUPTIONS, JPEG_QUALITY, corrupt, jpeg
from companion.ownership.evaluation import Separation, auc, separation
from companion.ownership.fingerprints import label_only, normal
from companion.statistics import Interval
from companion.studies.sac_arena import Arena
from companion.training import features, logits

NAMES = {
    "source": "source",
    "irrelevant": "irrelevant",
    "extract_label": "extraction, labels",
    "extract_probability": "extraction, probabilities",
    "extract_embedding": "extraction, embeddings",
    "extract_similarity": "extraction, similarities",
    "extract_adversarial": "extraction + adversarial",
    "fine_tune_all": "fine-tuning, all layers",
    "fine_tune_last": "fine-tuning, last layer",
    "fine_prune": "fine-pruning",
    "transfer": "transfer",
    "transfer_irrelevant": "irrelevant to transfer",
}
"""What a reader calls each family of models."""

VARIANT_NAMES = {"normal": "SAC-normal", "wrong": "SAC-w", "cutmix": "SAC-m", "jpeg": "SAC-JC"}

Distances = dict[str, np.ndarray]
"""For each family, the distances of its models to the source."""


def quality_rows(arena: Arena) -> list[list]:
    """Return for each family its reader's name, number of models, and mean, lowest and highest quality in percent."""
    rows = []
    for family in ("source", *arena.families):
        found = [quality(arena, model, family) for model in arena.zoo.family(family).models]
        rows.append([arena.name, NAMES[family], len(found), float(np.mean(found)), min(found), max(found)])
    return rows


def quality(arena: Arena, model: nn.Module, family: str) -> float:
    """Return how good a model is, in percent: accuracy on held-out images, or the AUC of verifying held-out pairs."""
    if arena.zoo.task.embeds:
        return 100 * verification_auc(features(model, arena.held.images), arena.held.labels)
    held = arena.transfer_held if family.startswith("transfer") else arena.held
    return 100 * float((logits(model, held.images).argmax(1) == held.labels).double().mean())


def verification_auc(embeddings: torch.Tensor, persons: torch.Tensor) -> float:
    """Return P(similarity of a pair of one person > similarity of a pair of two), over all pairs of (N, D)."""
    unit = F.normalize(embeddings, dim=1)
    upper = torch.triu(torch.ones(len(unit), len(unit), dtype=torch.bool), 1)
    same = persons[:, None] == persons[None, :]
    similar = unit @ unit.T
    return auc(-similar[upper & same].numpy(), -similar[upper & ~same].numpy())


def matrices(
    arena: Arena, queries: torch.Tensor, kind: str = "cosine", labels_only: bool = False
) -> dict[str, list[torch.Tensor]]:
    """Return the correlation matrix (N, N) of every model over N query images, by family, the source's included."""

    def matrix(model):
        answers = arena.outputs(model, queries)
        return correlation(label_only(answers) if labels_only else answers, kind)

    return {
        family: [matrix(model) for model in arena.zoo.family(family).models] for family in ("source", *arena.families)
    }


def distances_of(found: Mapping[str, list[torch.Tensor]], chosen: torch.Tensor | None = None) -> Distances:
    """Return every model's distance to the source from `matrices`; chosen: (n,) positions of the samples to use.

    An entry of a correlation matrix depends on its two samples alone, so a part of it is the matrix of fewer samples.
    """

    def part(matrix):
        return matrix if chosen is None else matrix[chosen][:, chosen]

    source = part(found["source"][0])
    return {
        family: np.array([correlation_distance(source, part(one)) for one in family_matrices])
        for family, family_matrices in found.items()
        if family != "source"
    }


def distances(arena: Arena, queries: torch.Tensor, kind: str = "cosine", labels_only: bool = False) -> Distances:
    """Return SAC's distance of every model of the arena to the source, over these query images."""
    return distances_of(matrices(arena, queries, kind, labels_only))


def auc_by_count(arena: Arena, queries: torch.Tensor, counts: Sequence[int], draws: int) -> list[float]:
    """Return, for each number of query samples, the mean AUC over thefts and over `draws` random choices of samples."""
    if not all(2 <= count <= len(queries) for count in counts):
        raise CompanionError(f"numbers of samples {list(counts)} of {len(queries)} queries: expected 2 to all of them.")
    found, stream = matrices(arena, queries), arena.zoo.generator("numbers of samples")
    means = []
    for count in counts:
        chosen = [torch.randperm(len(queries), generator=stream)[:count] for _ in range(draws)]
        means.append(float(np.mean([mean_auc(distances_of(found, one)) for one in chosen])))
    return means


def auc_by_severity(arena: Arena, count: int) -> list[float]:
    """Return the mean AUC with plain queries and with JPEG of severities 1 to 5."""
    plain, stream = normal(arena.held, count), arena.zoo.generator("severity")
    levels = [plain, *(corrupt(plain, "jpeg", severity, stream) for severity in range(1, 6))]
    return [mean_auc(distances(arena, queries)) for queries in levels]


def auc_by_enlargement(arena: Arena, count: int, factors: Sequence[int]) -> list[float]:
    """Return the mean AUC with queries that were enlarged by each factor while they were compressed (severity 1)."""
    plain, quality = normal(arena.held, count), JPEG_QUALITY[0]
    return [mean_auc(distances(arena, jpeg(plain, quality, enlarge=factor))) for factor in factors]


def ordered_matrices(arena: Arena, queries: torch.Tensor, families: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the matrix of the first model of each family, samples sorted by the source's answer, for a picture."""
    order = arena.outputs(arena.zoo.source, queries).argmax(1).argsort(stable=True)
    found = {}
    for family in families:
        answers = arena.outputs(arena.zoo.family(family).models[0], queries[order])
        found[family] = correlation(answers)
    return found


def relative(found: Distances) -> Distances:
    """Return distances as multiples of the mean irrelevant model's of the same label set: 1 is "like a stranger"."""
    return {family: values / found[strangers_to(family)].mean() for family, values in found.items()}


def strangers_to(family: str) -> str:
    """Return the family of irrelevant models that have the label set of `family`."""
    return "transfer_irrelevant" if family.startswith("transfer") else "irrelevant"


def matched_auc(arena: Arena, found: Distances, family: str) -> float:
    """Return the AUC over those pairs of a stolen and an irrelevant model that have one architecture.

    Distances depend on the architecture, so this tells theft from likeness. Raises CompanionError without such a pair.
    """
    stolen, strangers = (arena.zoo.family(name).architectures for name in (family, strangers_to(family)))
    won, pairs = 0.0, 0
    for architecture in sorted(set(stolen) & set(strangers)):
        own = found[family][[one == architecture for one in stolen]]
        others = found[strangers_to(family)][[one == architecture for one in strangers]]
        won, pairs = won + auc(own, others) * len(own) * len(others), pairs + len(own) * len(others)
    if not pairs:
        raise CompanionError(
            f"no irrelevant model has an architecture of {family} ({', '.join(map(str, stolen))}): give the plan's "
            "`architectures` the source's too, and enough irrelevant models to reach it."
        )
    return won / pairs


def architecture_control(arena: Arena, found: Distances) -> float:
    """Return the AUC of taking irrelevant models of the source's own architecture for stolen ones; 0.5 is as it should.

    Fine-tuned and pruned thefts share the source's architecture: were this AUC high, theirs would say little.
    """
    family = arena.zoo.family("irrelevant")
    same = np.array([architecture == tuple(arena.zoo.settings.source) for architecture in family.architectures])
    if same.all() or not same.any():
        raise CompanionError(
            f"{same.sum()} of {len(same)} irrelevant models have the source's architecture: the control needs some "
            "that do and some that do not. Change the plan's `architectures` or `irrelevant`."
        )
    return auc(found["irrelevant"][same], found["irrelevant"][~same])


def point_distances(arena: Arena, fingerprint: baselines.PointFingerprint) -> Distances:
    """Return one minus the matching rate of every model that has the source's labels (those of transfer have not)."""
    return {
        family: np.array([fingerprint.distance(model) for model in arena.zoo.family(family).models])
        for family in arena.families
        if not family.startswith("transfer")
    }


def separations(found: Distances) -> dict[str, Separation]:
    """Return, for each family of stolen models, what separates it from the irrelevant ones of its label set."""
    return {
        family: separation(values, found[strangers_to(family)])
        for family, values in found.items()
        if not family.endswith("irrelevant")
    }


def mean_auc(found: Distances, without: Sequence[str] = ()) -> float:
    """Return the mean AUC over the families of stolen models, except those named in `without`."""
    values = [
        auc(distances, found[strangers_to(family)])
        for family, distances in found.items()
        if not family.endswith("irrelevant") and family not in without
    ]
    return float(np.mean(values))


def mean_auc_interval(found: Distances, generator: torch.Generator, resamples: int = 1000) -> Interval:
    """Return the 95 % percentile bootstrap interval of `mean_auc`: the models of every family are drawn anew.

    The source, and the images, stay as they are, so the interval does not tell how the next source would fare.
    """

    def drawn(family):
        size = (resamples, len(found[family]))
        return found[family][torch.randint(size[1], size, generator=generator).numpy()]  # (R, models)

    strangers = {name: drawn(name) for name in found if name.endswith("irrelevant")}
    means = []
    for family in found:
        if family not in strangers:
            own, others = drawn(family)[:, :, None], strangers[strangers_to(family)][:, None, :]
            means.append(((others > own) + 0.5 * (others == own)).mean((1, 2)))
    low, high = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
    return Interval(float(low), float(high), 0.95, "bootstrap")


def compare_corruptions(arena: Arena, severity: int, count: int) -> dict[str, float]:
    """Return the mean AUC with queries under each corruption, and under none ("none")."""
    plain = normal(arena.held, count)
    found = {"none": mean_auc(distances(arena, plain))}
    for name in CORRUPTIONS:
        queries = corrupt(plain, name, severity, arena.zoo.generator("corruption", name))
        found[name] = mean_auc(distances(arena, queries))
    return found


def rank(values: Mapping[str, float], name: str) -> int:
    """Return the place of `name` from 1, the largest value; equal values share the better place.

    >>> rank({"a": 0.9, "b": 0.9, "c": 0.5}, "b")
    1
    """
    return 1 + sum(value > values[name] for value in values.values())


@dataclass(frozen=True)
class Cost:
    """What making a fingerprint takes: seconds on the clock, and passes of one image through one network (forward 1,
    gradient 2 more), which do not depend on the machine.
    """

    seconds: float
    passes: int


def make_fingerprint(arena: Arena, variant: str, count: int) -> tuple[torch.Tensor, Cost]:
    """Return the query images of a variant of SAC and what choosing them and asking the source takes, at best."""
    seconds = []
    for _ in range(3):  # it takes milliseconds, and the first time more
        begin = time.perf_counter()
        queries = arena.queries(variant, count)
        correlation(arena.outputs(arena.zoo.source, queries))
        seconds.append(time.perf_counter() - begin)
    searched = len(arena.held) if variant == "wrong" else 0
    return queries, Cost(min(seconds), len(queries) + searched)


def make_boundary(arena: Arena, count: int, steps: int) -> tuple[baselines.PointFingerprint, Cost]:
    """Return the IPGuard-like fingerprint and its cost."""
    begin = time.perf_counter()
    found = baselines.boundary_points(arena.zoo.source, normal(arena.held, count), steps=steps)
    return found, Cost(time.perf_counter() - begin, found.passes)


def make_conferrable(arena: Arena, count: int, steps: int) -> tuple[baselines.PointFingerprint, Cost]:
    """Return the fingerprint of conferrable examples and its cost, training the owner's other models included."""
    surrogates, references = (arena.zoo.family(name) for name in ("surrogates", "references"))
    begin = time.perf_counter()
    found = baselines.conferrable_points(
        arena.zoo.source,
        surrogates.models,
        references.models,
        normal(arena.held, count),
        arena.zoo.generator("conferrable"),
        steps=steps,
    )
    seconds = time.perf_counter() - begin + surrogates.seconds + references.seconds
    trained = len(surrogates.models) + len(references.models)
    owned = len(arena.zoo.data("owner"))
    return found, Cost(seconds, found.passes + 3 * owned * arena.zoo.settings.training.epochs * trained)
