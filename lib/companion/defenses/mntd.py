"""MNTD (Xu et al., IEEE S&P 2021): a meta-classifier that tells backdoored networks from clean ones by their answers.

The defender trains shadow networks of the suspect's architecture on little data, half of them backdoored with all sorts
of triggers ("jumbo" learning). A meta-classifier sends Q query images through a network and reads the Q x K logits:
linear, ReLU, linear, one score. Queries and classifier are trained together on the shadows ("query tuning"), and the
best of all epochs on validation shadows is kept. Scores above a threshold mean a backdoor; which threshold is a choice
that decides much (`RULES`). R repeats with other starts are trained at once, as one stack, and their scores averaged.

Written from the description of the official code. Networks are either a `Fleet` or a list of modules.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.attacks.triggers import PatchTrigger
from companion.errors import CompanionError
from companion.fleet import Fleet
from companion.models.frozen import frozen

Networks = Fleet | Sequence[nn.Module]

RULES = ("median", "zero", "validation")
"""Above what a score means a backdoor: the median of the scores that are tested together (the released evaluation, in
which exactly half of them are backdoored), 0 (the decision of the loss), or the threshold that is best on validation
shadows. Only the latter two say anything of a single network."""


@dataclass(frozen=True)
class Config:
    """Settings of the meta-classifier.

    queries: Q; hidden: neurons; epochs: over all shadows; learning_rate: of Adam; batch: shadows of a step;
    replacement: shadows are drawn with replacement, as in the official code; tune_queries: train the queries too;
    repeats: R, trained side by side.
    """

    queries: int = 10
    hidden: int = 20
    epochs: int = 10
    learning_rate: float = 1e-3
    batch: int = 1
    replacement: bool = True
    tune_queries: bool = True
    repeats: int = 5


OFFICIAL = Config()
BATCHED = Config(epochs=60, batch=16, learning_rate=4e-3, replacement=False)
"""Ours, for fleets on a CPU: a step asks sixteen shadows at once."""


@dataclass(frozen=True)
class Trojan:
    """One jumbo Trojan: its trigger, the label that it shall mean, and poisoned images added per clean one."""

    trigger: PatchTrigger
    target: int
    rate: float


def jumbo_trojan(shape: tuple[int, int, int], classes: int, generator: torch.Generator, kind: str = "jumbo") -> Trojan:
    """Draw a Trojan of the family that MNTD's shadows are trained on.

    Side p in {2, 3, 4, 5, full}. A patch stands at a random place with strength alpha uniform in [0.2, 0.6], which
    becomes 1 above 0.5; a full-image blend has alpha uniform in [0.05, 0.2]. Grey images get a random binary pattern,
    colour ones a pattern uniform in [-e, 1 + e], clipped, with e uniform in [0, 1]. The target is random, the rate is
    uniform in [0.05, 0.5].
    shape: (C, H, W); kind: "jumbo", or the Trojans of the test: "patch" (side 2 to 5, alpha 1) or "blend".
    Raises CompanionError for another kind, fewer than two classes, and images of fewer than 5 pixels a side.
    """
    channels, height, width = shape
    if kind not in ("jumbo", "patch", "blend") or classes < 2 or min(height, width) < 5:
        raise CompanionError(
            f'a Trojan of kind "{kind}" for {classes} classes and images {shape}: expected jumbo, patch or blend, at '
            "least 2 classes and 5 pixels a side."
        )

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator, dtype=torch.float64))

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    size = whole(2, 7)  # 6 stands for the full image
    full = size == 6 if kind == "jumbo" else kind == "blend"
    if kind == "patch":
        size, alpha = 2 + size % 4, 1.0
    elif full:
        alpha = uniform(0.05, 0.2)
    else:
        alpha = uniform(0.2, 0.6)
        alpha = 1.0 if alpha > 0.5 else alpha
    support = torch.ones(height, width, dtype=torch.bool)
    if not full:
        row, column = whole(0, height - size + 1), whole(0, width - size + 1)
        support.zero_()
        support[row : row + size, column : column + size] = True
    drawn = torch.rand(shape, generator=generator)
    reach = uniform(0.0, 1.0)
    pattern = (drawn > 0.5).float() if channels == 1 else (drawn * (1 + 2 * reach) - reach).clamp(0, 1)
    return Trojan(PatchTrigger(pattern, support, alpha), whole(0, classes), uniform(0.05, 0.5))


class MetaClassifier(nn.Module):
    """R meta-classifiers as one stack: queries (R, Q, C, H, W) and two linear layers from Q K logits to one score.

    The queries start as normal noise with `mean` and `deviation` of the data's pixels, (C, H, W) each; the layers start
    as torch's linear layers do.
    """

    def __init__(
        self, mean: torch.Tensor, deviation: torch.Tensor, classes: int, config: Config, generator: torch.Generator
    ):
        super().__init__()
        repeats, inputs = config.repeats, config.queries * classes
        noise = torch.randn(repeats, config.queries, *mean.shape, generator=generator)
        self.queries = nn.Parameter(mean + deviation * noise, requires_grad=config.tune_queries)
        self.first = _stack((repeats, inputs, config.hidden), inputs, generator)
        self.first_bias = _stack((repeats, 1, config.hidden), inputs, generator)
        self.second = _stack((repeats, config.hidden, 1), config.hidden, generator)
        self.second_bias = _stack((repeats, 1, 1), config.hidden, generator)

    def forward(self, networks: Networks, chosen: torch.Tensor) -> torch.Tensor:
        """Return the scores (R, m) of the networks number `chosen` (m,) int64."""
        answers = ask(networks, chosen, self.queries.flatten(0, 1))  # (m, R Q, K)
        inputs = answers.unflatten(1, self.queries.shape[:2]).transpose(0, 1).flatten(2)  # (R, m, Q K)
        hidden = F.relu(inputs @ self.first + self.first_bias)
        return (hidden @ self.second + self.second_bias).squeeze(2)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained meta-classifier: each repeat at its best epoch, and what it says of the validation shadows.

    meta: of the best epochs; validation_scores: (v,) averaged over repeats; validation_labels: (v,) bool, whether a
    shadow is backdoored; validation_auc: of the averaged scores; curve: (epochs, R), validation AUC.
    """

    meta: MetaClassifier
    validation_scores: torch.Tensor
    validation_labels: torch.Tensor
    validation_auc: float
    curve: torch.Tensor


def ask(networks: Networks, chosen: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return the logits (m, B, K) of the networks number `chosen` (m,) for images (B, C, H, W)."""
    if isinstance(networks, Fleet):
        return networks(images, chosen)
    return torch.stack([networks[int(k)](images) for k in chosen])


def train_meta(
    networks: Networks,
    trojaned: torch.Tensor,
    validation: Networks,
    validation_trojaned: torch.Tensor,
    mean: torch.Tensor,
    deviation: torch.Tensor,
    config: Config,
    generator: torch.Generator,
) -> Trained:
    """Train meta-classifiers on shadow networks.

    networks, trojaned: the shadows and which of them are backdoored, (S,) bool; validation, validation_trojaned:
    others, which choose the epoch; mean, deviation: of the data's pixels, (C, H, W); generator: on the CPU, for starts
    and the order of shadows. Raises CompanionError when one side has no shadows, and for logits that are not finite.
    """
    for what, labels, models in (
        ("shadows", trojaned, networks),
        ("validation shadows", validation_trojaned, validation),
    ):
        if labels.dtype != torch.bool or labels.shape != (len(models),) or labels.all() or not labels.any():
            raise CompanionError(
                f"MNTD got {len(models)} {what}, {int(labels.sum())} of them backdoored by {labels.dtype} of shape "
                f"{tuple(labels.shape)}; expected both kinds, named by torch.bool of shape ({len(models)},)."
            )
    with _all_frozen(networks), _all_frozen(validation):
        classes = ask(networks, torch.zeros(1, dtype=torch.int64), mean.unsqueeze(0)).shape[2]
        meta = MetaClassifier(mean, deviation, classes, config, generator)
        wanted = [parameter for parameter in meta.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(wanted, config.learning_rate)
        best = {name: value.clone() for name, value in meta.state_dict().items()}
        highest, curve = torch.full((config.repeats,), -1.0), []
        for _ in range(config.epochs):
            for chosen in _orders(len(trojaned), config, generator):
                scores = meta(networks, chosen)  # (R, m)
                wanted_labels = trojaned[chosen].float().expand_as(scores)
                loss = F.binary_cross_entropy_with_logits(scores, wanted_labels, reduction="sum") / len(chosen)
                if not torch.isfinite(loss):
                    raise CompanionError("MNTD's loss is not finite; look at the shadows' logits and weights.")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            found = _scores(meta, validation)  # (R, v)
            reached = torch.tensor([auc(row, validation_trojaned) for row in found])
            for name, value in meta.state_dict().items():
                best[name][reached > highest] = value[reached > highest]
            highest = torch.maximum(highest, reached)
            curve.append(reached)
        meta.load_state_dict(best)
        kept = _scores(meta, validation).mean(0)
    return Trained(meta, kept, validation_trojaned, auc(kept, validation_trojaned), torch.stack(curve))


def score(meta: MetaClassifier, networks: Networks) -> torch.Tensor:
    """Return the scores (M,) of networks, averaged over the repeats; above 0 means backdoored to the trained loss."""
    with _all_frozen(networks):
        return _scores(meta, networks).mean(0)


def auc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the area under the ROC curve: the share of (positive, negative) pairs in the right order, ties half.

    >>> auc(torch.tensor([0.1, 0.9, 0.5]), torch.tensor([False, True, False]))
    1.0
    """
    if not positive.any() or positive.all():
        raise CompanionError(
            f"an AUC over {len(positive)} scores, {int(positive.sum())} positive: expected both kinds."
        )
    gaps = scores[positive].double().unsqueeze(1) - scores[~positive].double()
    return float(((gaps > 0).double() + 0.5 * (gaps == 0).double()).mean())


def verdicts(scores: torch.Tensor, rule: str, trained: Trained | None = None) -> torch.Tensor:
    """Return which of the networks tested together count as backdoored, (M,) bool, by one of RULES.

    Raises CompanionError for an unknown rule, and for "validation" without a trained meta-classifier.
    """
    if rule == "median":
        return scores > scores.double().quantile(0.5)
    if rule == "zero":
        return scores > 0
    if rule == "validation" and trained is not None:
        return scores > best_threshold(trained.validation_scores, trained.validation_labels)
    raise CompanionError(f'MNTD\'s rule is "{rule}"; expected one of {", ".join(RULES)}, "validation" with `trained`.')


def best_threshold(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the lowest threshold of the highest accuracy on labelled scores, midway between two of them."""
    values = scores.double().unique()  # ascending
    cuts = torch.cat([values[:1] - 1, (values[1:] + values[:-1]) / 2])
    right = ((scores.double() > cuts.unsqueeze(1)) == positive).double().mean(1)
    return float(cuts[right.argmax()])


def _scores(meta: MetaClassifier, networks: Networks) -> torch.Tensor:
    with torch.no_grad():
        return meta(networks, torch.arange(len(networks)))


def _orders(count: int, config: Config, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    if config.replacement:
        return torch.randint(count, (count,), generator=generator).split(config.batch)
    return torch.randperm(count, generator=generator).split(config.batch)


def _stack(shape: tuple[int, ...], inputs: int, generator: torch.Generator) -> nn.Parameter:
    return nn.Parameter((2 * torch.rand(shape, generator=generator) - 1) / inputs**0.5)


def _all_frozen(networks: Networks):
    return frozen(networks if isinstance(networks, nn.Module) else nn.ModuleList(networks))
