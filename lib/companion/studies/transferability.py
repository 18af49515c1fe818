"""The experiments of the chapter on adversarial transferability (survey of Gu et al., TMLR 2024).

Each takes a `Lab` (`companion.studies.transfer_lab`), attacks its images and returns outcomes or plain numbers; the
chapter adds prose, tables and figures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from companion.attacks.transfer.ensembles import collect_snapshots
from companion.attacks.transfer.features import FeatureImportance, IntermediateLevel, Output
from companion.attacks.transfer.generative import train_generator
from companion.attacks.transfer.losses import CrossEntropy, Logit, PoincareTriplet
from companion.attacks.transfer.method import Method, attack
from companion.attacks.transfer.registry import Entry, Scale, entries
from companion.attacks.transfer.rules import Momentum
from companion.attacks.transfer.state import Budget
from companion.attacks.transfer.transforms import ResizePad
from companion.errors import CompanionError
from companion.seeding import generator
from companion.statistics import Interval, bootstrap
from companion.studies.transfer_lab import CNNS, ROBUST, Lab, Outcome, run


@dataclass(frozen=True)
class Toolbox:
    """What some methods need beside the surrogate: networks of an ensemble, snapshots, a generator."""

    ensemble: tuple[str, ...]
    snapshots: tuple[nn.Module, ...]
    generator: nn.Module


def equip(lab: Lab, source: str, ensemble: Sequence[str], budget: Budget, snapshots: int, epochs: int) -> Toolbox:
    """Train what LGV and the generative attack need from the network `source`, on the lab's training images."""
    model, data = lab.networks[source], lab.train
    stream = generator(lab.seed, "snapshots", source)
    found = collect_snapshots(model, data.images, data.labels, stream, epochs=snapshots)
    stream = generator(lab.seed, "generator", source)
    made = train_generator(model, data.images, data.labels, budget.eps, stream, epochs=epochs)
    return Toolbox(tuple(ensemble), tuple(found), made)


def campaign(
    lab: Lab, chosen: Mapping[str, Entry], source: str, tools: Toolbox, budget: Budget, longest: Mapping[str, int]
) -> dict[str, Outcome]:
    """Run every untargeted method of `chosen` from `source`; those in `longest` for more steps, judged at each.

    The size of a step stays `budget.size` however long the attack runs, so that `budget.steps` steps of a long attack
    are the ordinary attack.
    """
    found = {}
    for name, entry in chosen.items():
        if entry.needs == "targets":
            continue
        sources = {"ensemble": tools.ensemble, "snapshots": tools.snapshots}.get(entry.needs, (source,))
        steps = max(budget.steps, longest.get(name, 0))
        extended = replace(budget, steps=steps, step=budget.size)
        keep = range(1, steps) if name in longest else (budget.steps,)
        found[name] = run(lab, entry.method, sources, extended, keep=keep, network=tools.generator)
    return found


def at_cost(outcome: Outcome, cost: int, *networks: str) -> np.ndarray:
    """Return for each image the share of `networks` fooled by the longest attack that cost at most `cost`, (N,).

    Raises `CompanionError` if even the first step cost more.
    """
    affordable = [step for step, paid in zip(outcome.steps, outcome.cost, strict=True) if paid <= cost]
    if not affordable:
        raise CompanionError(
            f"one step of the attack costs {outcome.cost[0]} gradients: expected a budget of at least that, "
            f"not {cost}. Use fewer copies or a larger budget."
        )
    return outcome.of(*networks, at=affordable[-1])


def curve(outcome: Outcome, networks: Sequence[str]) -> np.ndarray:
    """Return the mean success on `networks` after each number of steps at which the attack was judged, in percent."""
    return np.array([100 * outcome.of(*networks, at=step).mean() for step in outcome.steps])


def matrices(
    lab: Lab, methods: Mapping[str, Method], sources: Sequence[str], budget: Budget
) -> dict[str, dict[str, Outcome]]:
    """Attack from every source by every method: outcomes by method and source."""
    return {
        name: {source: run(lab, method, [source], budget) for source in sources} for name, method in methods.items()
    }


@dataclass(frozen=True, eq=False)
class Summary:
    """One method's numbers: white and black: the share of networks fooled on each image, (N,), of those it attacked
    and of the undefended ones it had not seen; robust: of the adversarially trained one, or None without one; cost:
    gradients an image; norm: mean L2; rank: mean place of the true class in the networks it had not seen.
    """

    entry: Entry
    white: np.ndarray
    black: np.ndarray
    robust: np.ndarray | None
    cost: int
    norm: float
    rank: float


def unseen(lab: Lab, entry: Entry, source: str, tools: Toolbox) -> list[str]:
    """Return the undefended networks whose gradients a method does not use."""
    return lab.undefended(*(tools.ensemble if entry.needs == "ensemble" else (source,)))


def summaries(
    lab: Lab, chosen: Mapping[str, Entry], found: Mapping[str, Outcome], source: str, tools: Toolbox, steps: int
) -> dict[str, Summary]:
    """Return every method's numbers after the `steps` steps of the ordinary attack."""
    result = {}
    for name, outcome in found.items():
        entry = chosen[name]
        at = steps if steps in outcome.steps else None
        others = unseen(lab, entry, source, tools)
        seen = [one for one in lab.undefended() if one not in others]
        robust = outcome.of(ROBUST, at=at) if ROBUST in lab.names else None
        cost = outcome.cost[-1 if at is None else outcome.steps.index(at)]
        result[name] = Summary(
            entry, outcome.of(*seen, at=at), outcome.of(*others, at=at), robust, cost, outcome.norm(at),
            outcome.rank(*others, at=at),
        )  # fmt: skip
    return result


def family_gaps(lab: Lab, found: Mapping[str, Outcome], source: str, stranger: str, at: int) -> dict[str, np.ndarray]:
    """Return how much more often each single-source attack fools unseen CNNs than `stranger`, image by image, (N,).

    stranger: the network of another family.
    """
    cnns = [name for name in lab.undefended(source, stranger) if name in CNNS]
    gaps = {}
    for name, outcome in found.items():
        step = at if at in outcome.steps else None
        gaps[name] = outcome.of(*cnns, at=step) - outcome.of(stranger, at=step)
    return gaps


def family_matrix(lab: Lab, outcomes: Mapping[str, Outcome], stranger: str) -> dict[str, float]:
    """Return the mean success from CNNs to other CNNs ("within"), to `stranger` ("across"), and from it ("back").

    outcomes: by source; stranger: the network of another family. Values lie in [0, 1].
    """
    cnns = [name for name in lab.undefended(stranger) if name in CNNS]
    among = [outcomes[one].of(other).mean() for one in cnns for other in cnns if one != other]
    return {
        "within": float(np.mean(among)),
        "across": float(np.mean([outcomes[one].of(stranger).mean() for one in cnns])),
        "back": float(outcomes[stranger].of(*cnns).mean()),
    }


def examples(lab: Lab, methods: Mapping[str, Method], source: str, budget: Budget, count: int) -> list[torch.Tensor]:
    """Return the first `count` images clean and attacked by each method from `source`, (count, C, H, W) each."""
    images, labels, indices = lab.images.images[:count], lab.images.labels[:count], lab.indices[:count]
    model = lab.networks[source]
    made = [attack(one, model, images, labels, budget, lab.seed, indices=indices) for one in methods.values()]
    return [one.cpu() for one in (images, *made)]


TARGETED = {"ce": CrossEntropy(), "potrip": PoincareTriplet(), "logit": Logit()}
"""The losses of targeted attacks that are compared."""


def targeted(
    lab: Lab, source: str, budget: Budget, keep: Sequence[int], scale: Scale, count: int | None = None
) -> dict[str, Outcome]:
    """Run targeted TI-MI-DI attacks with each loss of TARGETED towards one random wrong class an image."""
    labels, classes = lab.images.labels, len(lab.images.classes)
    shift = torch.randint(1, classes, labels.shape, generator=generator(lab.seed, "targets"))
    goal, found = (labels + shift.to(labels.device)) % classes, {}
    for name, loss in TARGETED.items():
        method = Method(transform=ResizePad((scale.rate,), 0.7), objective=Output(loss), smoothing=scale.kernel)
        found[name] = run(lab, method, [source], budget, keep=keep, targets=goal, count=count)
    return found


def ensemble_sizes(lab: Lab, held_out: str, budget: Budget, count: int) -> dict[int, np.ndarray]:
    """Attack `count` images by MI from ensembles of the undefended networks but `held_out`, and judge on that one.

    Returns by size k which images were fooled, (E, n) bool: the ensembles of size k are the k networks that follow one
    another, round, from every one of them, so that each network is in equally many; E = 1 for all of them.
    """
    names, found = lab.undefended(held_out), {}
    for size in range(1, len(names) + 1):
        starts = range(len(names)) if size < len(names) else range(1)
        chosen = [[names[(start + place) % len(names)] for place in range(size)] for start in starts]
        outcomes = [run(lab, Method(members=size), members, budget, count=count) for members in chosen]
        found[size] = np.stack([outcome.of(held_out) for outcome in outcomes])
    return found


def layers(lab: Lab, source: str, budget: Budget, masks: int) -> dict[str, list[Outcome]]:
    """Run ILA and FIA at every named layer of `source`, from early to late."""
    count = len(lab.networks[source].layers)
    base = Method(rule=Momentum(0.0))
    kinds = {
        "ila": [Method(objective=IntermediateLevel(base, layer)) for layer in range(count)],
        "fia": [Method(objective=FeatureImportance(layer, masks)) for layer in range(count)],
    }
    return {name: [run(lab, method, [source], budget) for method in methods] for name, methods in kinds.items()}


def interval(lab: Lab, values: np.ndarray, *names: object) -> Interval:
    """Return the bootstrap interval, over images, of the mean of `values` (N,), in percent."""
    return bootstrap(100 * values, generator(lab.seed, "bootstrap", *names))


def ends(lab: Lab, values: np.ndarray, *names: object) -> tuple[float, float]:
    """Return the two ends of `interval`."""
    found = interval(lab, values, *names)
    return found.low, found.high


def reversals(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], lab: Lab) -> tuple[int, int, int]:
    """Count the pairs of methods whose order differs between two rankings.

    first, second: by method, the share of networks fooled on each image, (N,). Returns how many pairs turn round, for
    how many of those both differences have 95 % bootstrap intervals without 0, and how many pairs there are.
    """
    names, turned, sure, pairs = list(first), 0, 0, 0
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            gaps = [ranking[one] - ranking[other] for ranking in (first, second)]
            pairs += 1
            if gaps[0].mean() * gaps[1].mean() < 0:
                turned += 1
                bounds = [interval(lab, gap, "reversal", one, other, index) for index, gap in enumerate(gaps)]
                sure += all(bound.low > 0 or bound.high < 0 for bound in bounds)
    return turned, sure, pairs


def rank_correlation(
    first: Sequence[float], second: Sequence[float], stream: torch.Generator
) -> tuple[float, Interval]:
    """Return Spearman's correlation of two lists over methods and its bootstrap interval over methods.

    Raises `CompanionError` for lists of different length or with fewer than four methods.
    """
    pairs = np.stack([np.asarray(first, dtype=float), np.asarray(second, dtype=float)])
    if pairs.shape[1] < 4:
        raise CompanionError(f"a rank correlation over {pairs.shape[1]} methods: expected at least 4.")

    def correlations(places: np.ndarray, axis: int) -> np.ndarray:
        return np.array([_spearman(*pairs[:, row.astype(int)]) for row in places])

    return _spearman(*pairs), bootstrap(np.arange(pairs.shape[1]), stream, correlations)


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    ranks = [_ranks(values) for values in (first, second)]
    if min(rank.std() for rank in ranks) == 0:
        return 0.0  # a resample of one method alone has no order
    return float(np.corrcoef(*ranks)[0, 1])


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, ties sharing their mean."""
    below = (values[:, None] > values[None]).sum(1)
    same = (values[:, None] == values[None]).sum(1)
    return below + (same - 1) / 2


def taxonomy(scale: Scale, steps: int) -> list[dict[str, object]]:
    """Return a row for every registered method: group, name, source, provenance and gradients of `steps` steps.

    A star marks methods that the survey's own table does not name, whose place is ours.
    """
    return [
        {
            "group": entry.group + (" *" if entry.placed else ""),
            "method": entry.title,
            "source": entry.source,
            "update rule": "verified" if entry.verified else "reconstruction",
            "gradients": entry.method.evaluations(steps),
        }
        for entry in entries(scale).values()
    ]


def formulas() -> str:
    """Return a Markdown table of every registered method's formula."""
    rows = [f"| {entry.title} | ${entry.formula}$ |" for entry in entries().values()]
    return "\n".join(["| method | what is special |", "|---|---|", *rows])
