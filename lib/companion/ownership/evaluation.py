"""How well distances to the source tell stolen models from irrelevant ones: AUC, p-value, F1.

Smaller distances should mean "stolen". The AUC is P(d(irrelevant) > d(stolen)); taken the other way round it would be
one minus that. p-value and F1 are defined here, as the paper's own definitions were not available to us.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from companion.errors import CompanionError


@dataclass(frozen=True)
class Separation:
    """What separates one family of stolen models from the irrelevant ones.

    auc: in [0, 1], 0.5 is chance; p_value: of a two-sided Welch t-test; p_rank: of a two-sided Mann-Whitney U test;
    f1: with "stolen" as the positive class, thresholds from the other half of the models; a p-value is NaN where
    neither group varies.
    """

    auc: float
    p_value: float
    p_rank: float
    f1: float
    stolen: int
    irrelevant: int


def auc(stolen: np.ndarray, irrelevant: np.ndarray) -> float:
    """Return P(d(irrelevant) > d(stolen)) + P(equal) / 2 over all pairs of the distances (S,) and (I,).

    >>> auc([0.1, 0.2], [0.3, 0.15])
    0.75
    """
    stolen, irrelevant = _distances(stolen, "stolen"), _distances(irrelevant, "irrelevant")
    ranks = stats.rankdata(np.concatenate([irrelevant, stolen]))[: len(irrelevant)]  # equal distances share a rank
    above = ranks.sum() - len(irrelevant) * (len(irrelevant) + 1) / 2  # pairs with the irrelevant model farther away
    return float(above / (len(irrelevant) * len(stolen)))


def welch(stolen: np.ndarray, irrelevant: np.ndarray) -> float:
    """Return the p-value of Welch's two-sided t-test between distances; NaN where neither group varies."""
    stolen, irrelevant = _distances(stolen, "stolen", 2), _distances(irrelevant, "irrelevant", 2)
    if np.ptp(stolen) == 0 and np.ptp(irrelevant) == 0:
        return math.nan
    return float(stats.ttest_ind(stolen, irrelevant, equal_var=False).pvalue)


def mann_whitney(stolen: np.ndarray, irrelevant: np.ndarray) -> float:
    """Return the p-value of the two-sided Mann-Whitney U test between distances; NaN where all are equal."""
    stolen, irrelevant = _distances(stolen, "stolen"), _distances(irrelevant, "irrelevant")
    if np.ptp(np.concatenate([stolen, irrelevant])) == 0:
        return math.nan
    return float(stats.mannwhitneyu(stolen, irrelevant, alternative="two-sided").pvalue)


def f1(stolen: np.ndarray, irrelevant: np.ndarray) -> float:
    """Return F1 of "d <= threshold means stolen", the threshold coming from models that it is not tested on.

    Each group is cut into two halves (every other model). The threshold of one half is the midpoint between the means
    of its stolen and its irrelevant models; it judges the other half, and the counts of both directions are added.
    Each group needs at least two models.
    """
    groups = _distances(stolen, "stolen", 2), _distances(irrelevant, "irrelevant", 2)
    hits = misses = false_alarms = 0
    for half in (0, 1):
        validation = [group[half::2] for group in groups]
        theft, honest = (group[1 - half :: 2] for group in groups)
        threshold = (validation[0].mean() + validation[1].mean()) / 2
        hits += int((theft <= threshold).sum())
        misses += int((theft > threshold).sum())
        false_alarms += int((honest <= threshold).sum())
    return 2 * hits / (2 * hits + misses + false_alarms)


def separation(stolen: np.ndarray, irrelevant: np.ndarray) -> Separation:
    """Return all measures for distances of stolen (S,) and irrelevant (I,) models, at least two of each.

    Raises CompanionError for fewer, and for distances that are not finite.
    """
    return Separation(
        auc(stolen, irrelevant),
        welch(stolen, irrelevant),
        mann_whitney(stolen, irrelevant),
        f1(stolen, irrelevant),
        len(stolen),
        len(irrelevant),
    )


def _distances(values: np.ndarray, name: str, least: int = 1) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or len(found) < least or not np.isfinite(found).all():
        raise CompanionError(
            f"distances of {name} models have shape {found.shape}, {int(np.isfinite(found).sum())} of them finite: "
            f"expected at least {least} finite numbers in one row. Add models of that family."
        )
    return found
