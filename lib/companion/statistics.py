"""Intervals for shares and means, so that no number is shown without how far it can be trusted."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import binomtest

from companion.errors import CompanionError

BOOTSTRAP_CELLS = 2_000_000  # resampled values held at once, about 16 MB


@dataclass(frozen=True)
class Interval:
    """A confidence interval [low, high] at `level` in (0, 1), and the method that gave it."""

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True)
class Proportion:
    """A share counted over `n` trials; a `CompanionError` is raised unless 0 <= successes <= n and n >= 1.

    >>> Proportion(successes=45, n=50).rate
    0.9
    """

    successes: int
    n: int

    def __post_init__(self):
        if not (self.n >= 1 and 0 <= self.successes <= self.n):
            raise CompanionError(
                f"a proportion of {self.successes} successes in {self.n} trials: expected n >= 1 and "
                "0 <= successes <= n. Check that the selection it was counted over is not empty."
            )

    @property
    def rate(self) -> float:
        """The share, in [0, 1]."""
        return self.successes / self.n

    def interval(self, level: float = 0.95) -> Interval:
        """Return the Wilson interval of the share."""
        return wilson(self.successes, self.n, level)


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Return Wilson's score interval of a share, which stays inside [0, 1] and keeps its width at 0 and n successes.

    successes, n: counts with 0 <= successes <= n and n >= 1; level: in (0, 1).
    Raises `CompanionError` for other values. Source: Wilson (1927), computed by `scipy.stats.binomtest`.
    """
    Proportion(successes, n)
    _check_level(level)
    low, high = binomtest(successes, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval(float(low), float(high), level, "wilson")


def _mean(samples: np.ndarray, axis: int) -> np.ndarray:
    return samples.mean(axis=axis)


def bootstrap(
    values: torch.Tensor | np.ndarray | list[float],
    generator: torch.Generator,
    statistic: Callable[..., np.ndarray] = _mean,
    level: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic of `values`.

    values: (n,) finite numbers, n >= 1; generator: draws the resamples (on the CPU);
    statistic: called as `statistic(samples, axis=1)` with samples (resamples, n), returns (resamples,), such as
    `np.mean` or `np.median`; level: in (0, 1); resamples: how many, >= 1.
    Raises `CompanionError` for empty or non-finite values. Source: Efron (1979), percentile method.
    """
    sample = np.asarray(values, dtype=np.float64)
    _check_level(level)
    if sample.ndim != 1 or not len(sample) or not np.isfinite(sample).all():
        raise CompanionError(
            f"bootstrap of values with shape {sample.shape}, {np.isfinite(sample).sum()} of them finite: "
            "expected (n,) finite numbers with n >= 1. Leave out what was not measured before you call it."
        )
    rows = max(1, min(resamples, BOOTSTRAP_CELLS // len(sample)))
    found = []
    for start in range(0, resamples, rows):
        size = (min(rows, resamples - start), len(sample))
        picks = torch.randint(len(sample), size, generator=generator).numpy()  # (rows, n)
        found.append(statistic(sample[picks], axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    return Interval(float(low), float(high), level, "bootstrap")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise CompanionError(f"confidence level {level}: expected a number in (0, 1), such as 0.95.")
