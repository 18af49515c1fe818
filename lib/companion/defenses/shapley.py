"""Shapley values of neurons for a backdoor, exactly and by Monte-Carlo walks (Guan et al., CVPR 2022).

The players of the game are neurons, and the value V(S) of a coalition S is how well the backdoor works in the network
whose other neurons are switched off. The Shapley value of neuron i is the mean, over all orders in which neurons may be
removed one after the other, of the drop V(before) - V(after) at the removal of i.

A *walk* removes neurons in one order. Two accelerations of the paper are here as the fact sheet reconstructs them. The
discarding threshold ends a walk once V has fallen below it and credits nothing to the neurons that are left. The
epsilon-greedy order takes a uniformly random order with probability epsilon, and otherwise removes the neurons first
that have the highest estimates so far, so that V falls early and the walk ends soon. Greedy walks bias the estimate:
the walks in uniform order are also kept apart.

Many walks go side by side, and several removals of each are evaluated ahead, so that a value function sees hundreds of
coalitions in a call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial

import torch
import torch.nn.functional as F

from companion.errors import CompanionError
from companion.models.prunable import Chain, Masked

MOST_EXACT = 16  # players whose 2^n coalitions are still enumerated

Value = Callable[[torch.Tensor], torch.Tensor]
"""A game: coalitions (M, n) bool to values (M,) float, True for a player who takes part."""


class BackdoorGame:
    """How well a trigger works in a network whose neurons are partly switched off.

    chain: the network; triggered: (N, C, H, W) images of other classes that carry the (reversed) trigger; target: its
    label; soft: V is the mean probability of the target, which N images resolve finely, else the share of images
    predicted as the target. `evaluations` counts coalitions, `masked.passes` images through each stage.
    """

    def __init__(self, chain: Chain, triggered: torch.Tensor, target: int, soft: bool = True):
        self.masked, self.target, self.soft = Masked(chain, triggered), target, soft
        self.players = chain.neurons
        self.evaluations = 0

    def __call__(self, coalitions: torch.Tensor) -> torch.Tensor:
        """Return V (M,) float64 in [0, 1] of coalitions (M, n) bool."""
        self.evaluations += len(coalitions)
        logits = self.masked.logits(coalitions)  # (M, N, K)
        if self.soft:
            return F.softmax(logits.double(), dim=2)[:, :, self.target].mean(1).cpu()
        return (logits.argmax(2) == self.target).double().mean(1).cpu()


def within(value: Value, players: torch.Tensor, count: int) -> Value:
    """Return the game among `players` ((n,) int64 of `count`) alone, in which all others always take part."""

    def restricted(coalitions: torch.Tensor) -> torch.Tensor:
        full = torch.ones(len(coalitions), count, dtype=torch.bool)
        full[:, players] = coalitions
        return value(full)

    return restricted


def tabulated(value: Value, count: int) -> Value:
    """Return the same game with the values of all 2^count coalitions looked up in a table; see `exact_shapley`."""
    values = value(_all_coalitions(count)).double()  # (2^n,)
    places = 2 ** torch.arange(count)
    return lambda coalitions: values[(coalitions.long() * places).sum(1)]


def _all_coalitions(count: int) -> torch.Tensor:
    """Return the coalitions (2^count, count) bool of a small game; number c holds the players whose bit of c is set."""
    if not 1 <= count <= MOST_EXACT:
        raise CompanionError(
            f"exact Shapley values of {count} players need 2^{count} coalitions; expected 1 to {MOST_EXACT} players. "
            "Use `estimate` for more."
        )
    return ((torch.arange(2**count).unsqueeze(1) >> torch.arange(count)) & 1).bool()


def exact_shapley(value: Value, count: int) -> torch.Tensor:
    """Return the Shapley values (count,) float64 of a game by enumeration of all 2^count coalitions.

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (V(S + i) - V(S)).
    Raises CompanionError for no player or more than MOST_EXACT. Source: Shapley (1953).
    """
    members = _all_coalitions(count)  # (2^n, n)
    values = value(members).double()  # (2^n,)
    numbers, sizes = torch.arange(2**count), members.sum(1)
    weights = torch.tensor([factorial(s) * factorial(count - s - 1) / factorial(count) for s in range(count)])
    found = []
    for player in range(count):
        without = numbers[~members[:, player]]
        gains = values[without + 2**player] - values[without]
        found.append((weights.double()[sizes[without]] * gains).sum())
    return torch.stack(found)


@dataclass(frozen=True)
class Sampling:
    """How Monte-Carlo walks are taken.

    walks: how many; threshold: xi, below which share of V(all) a walk is discarded (0: never); epsilon: chance of a
    uniform order (1: always, plain Monte-Carlo); leaders: neurons with the highest estimates that a greedy order
    removes first, in random order among themselves; together: walks that go side by side, after which estimates are
    renewed; ahead: removals of a walk that are evaluated together, some in vain if the walk is discarded among them;
    block: neurons that are removed at once and share the credit equally, for large networks.
    """

    walks: int = 200
    threshold: float = 0.2
    epsilon: float = 0.1
    leaders: int = 12
    together: int = 10
    ahead: int = 4
    block: int = 1

    def __post_init__(self):
        expected = {
            "walks": (self.walks >= 1, "at least 1"),
            "threshold": (0 <= self.threshold < 1, "a share of V(all) in [0, 1)"),
            "epsilon": (0 <= self.epsilon <= 1, "a probability"),
            "leaders": (self.leaders >= 1, "at least 1"),
            "together": (self.together >= 1, "at least 1"),
            "ahead": (self.ahead >= 1, "at least 1"),
            "block": (self.block >= 1, "at least 1"),
        }
        for name, (fits, wanted) in expected.items():
            if not fits:
                raise CompanionError(f"Sampling.{name} is {getattr(self, name)!r}: expected {wanted}.")


PLAIN = Sampling(threshold=0.0, epsilon=1.0, together=20, ahead=1000)
"""Plain Monte-Carlo: every walk in uniform order and to its end."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """Shapley values estimated from walks.

    values: (n,) float64, mean credit over all walks; uniform: (n,) float64, over the walks in uniform order alone
    (zeros if there was none); errors: (n,) float64, standard errors of `values`; all_value: V of all; greedy: (walks,)
    bool, whether the order put the leaders first; lengths: (walks,) int64, removals until a walk was discarded or done;
    evaluations: coalitions evaluated, those in vain included.
    """

    values: torch.Tensor
    uniform: torch.Tensor
    errors: torch.Tensor
    all_value: float
    greedy: torch.Tensor
    lengths: torch.Tensor
    evaluations: int

    def ranking(self) -> torch.Tensor:
        """Return the neurons from the highest value to the lowest, (n,) int64; ties by number."""
        return self.values.argsort(descending=True, stable=True)


def estimate(value: Value, count: int, sampling: Sampling, generator: torch.Generator) -> Estimate:
    """Return estimated Shapley values of a game with `count` players.

    generator: draws the orders. With threshold 0 the values of every walk add up to V(all) - V(none) exactly, whatever
    the orders; the result does not depend on `ahead`, and for epsilon = 1 not on `together`.
    Raises CompanionError for a game without players or whose values are not finite.
    Source: Castro et al. (2009) for the walks; the threshold and the greedy order after the fact sheet.
    """
    if count < 1:
        raise CompanionError("a game without players has no Shapley values; the network has nothing to prune.")
    whole = _checked(value(torch.ones(1, count, dtype=torch.bool)))[0]
    walks = _Walks(value, count, sampling, float(whole))
    credits, greedy, lengths = [], [], []
    for start in range(0, sampling.walks, sampling.together):
        size = min(sampling.together, sampling.walks - start)
        so_far = torch.cat(credits).mean(0) if credits else None
        orders, chosen = _orders(count, size, sampling, so_far, generator)
        found, taken = walks.take(orders)
        credits.append(found)
        greedy.append(chosen)
        lengths.append(taken)
    every, is_greedy = torch.cat(credits), torch.cat(greedy)  # (walks, n), (walks,)
    uniform = every[~is_greedy]
    errors = every.std(0, correction=1) / len(every) ** 0.5 if len(every) > 1 else torch.zeros(count).double()
    mean = uniform.mean(0) if len(uniform) else torch.zeros(count).double()
    taken = torch.cat(lengths)
    return Estimate(every.mean(0), mean, errors, float(whole), is_greedy, taken, walks.evaluations + 1)


def _orders(
    count: int, size: int, sampling: Sampling, so_far: torch.Tensor | None, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return orders of removal (size, n) int64 and which of them are greedy (size,) bool."""
    keys = torch.rand(size, count, generator=generator)
    greedy = torch.rand(size, generator=generator) >= sampling.epsilon
    if so_far is None:
        greedy = torch.zeros(size, dtype=torch.bool)
    elif greedy.any():
        leading = torch.zeros(count, dtype=torch.bool)
        leading[so_far.argsort(descending=True, stable=True)[: sampling.leaders]] = True
        keys = torch.where(greedy.unsqueeze(1) & leading, keys - 1, keys)  # before all others
    return keys.argsort(dim=1), greedy


class _Walks:
    """Takes walks side by side and remembers how many coalitions that cost."""

    def __init__(self, value: Value, count: int, sampling: Sampling, whole: float):
        self.value, self.count, self.sampling, self.whole = value, count, sampling, whole
        self.floor = sampling.threshold * whole if sampling.threshold else -float("inf")
        self.evaluations = 0

    def take(self, orders: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Walk along `orders` (W, n); return the credits (W, n) float64 of all players and the walks' lengths (W,)."""
        size, block = len(orders), self.sampling.block
        credits = torch.zeros(size, self.count, dtype=torch.float64)
        members = torch.ones(size, self.count, dtype=torch.bool)
        before = torch.full((size,), self.whole, dtype=torch.float64)
        lengths = torch.full((size,), self.count)
        alive = torch.arange(size)
        for start in range(0, self.count, self.sampling.ahead * block):
            chosen = orders[alive, start : start + self.sampling.ahead * block]  # (A, s)
            parts = chosen.split(block, dim=1)
            coalitions = []
            for part in parts:
                members[alive.unsqueeze(1), part] = False
                coalitions.append(members[alive])
            values = self._values(torch.stack(coalitions, 1))  # (A, parts)
            path = torch.cat([before[alive].unsqueeze(1), values], 1)  # (A, parts + 1)
            gone = path[:, :-1].cummin(1).values < self.floor  # a removal after V has fallen below the floor
            drops = torch.where(gone, 0.0, path[:, :-1] - path[:, 1:])
            for index, part in enumerate(parts):
                credits[alive.unsqueeze(1), part] = (drops[:, index] / part.shape[1]).unsqueeze(1)
            before[alive] = values[:, -1]
            fallen = (values < self.floor).any(1)
            steps = start + ((values < self.floor).long().argmax(1) + 1) * block
            lengths[alive[fallen]] = steps[fallen].clamp(max=self.count)
            alive = alive[~fallen]
            if not len(alive):
                break
        return credits, lengths

    def _values(self, coalitions: torch.Tensor) -> torch.Tensor:
        found = _checked(self.value(coalitions.flatten(0, 1)))
        self.evaluations += len(found)
        return found.unflatten(0, coalitions.shape[:2])


def _checked(values: torch.Tensor) -> torch.Tensor:
    if not torch.isfinite(values).all():
        raise CompanionError(
            f"{int((~torch.isfinite(values)).sum())} of {len(values)} coalitions have a value that is not finite; "
            "check that the network gives finite logits for these images."
        )
    return values.double()
