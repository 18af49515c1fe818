"""Which pairs of a training set look poisoned: by their similarity, by how fast they are learned, and by their loss.

The detection of local token unlearning (UBT) is a reconstruction: its paper was read in the abstract only, and what
stands here is the fact sheet's proposal (section 3.2, stage A). The isolation by loss follows the settings of ABL's
repository (section 3.3), carried over from classifiers to CLIP's loss.
"""

import copy
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.clip_network import embed_images, embed_texts, image_embeddings, scale_of, text_embeddings
from companion.multimodal.clip_training import ClipTraining, fit
from companion.multimodal.pairs import Pairs
from companion.statistics import Proportion


@dataclass(frozen=True)
class Overfitting:
    """Settings of `overfitted`: the share of pairs with the lowest similarity, and how a copy is trained on them."""

    share: float = 0.2
    training: ClipTraining = field(
        default_factory=lambda: ClipTraining(epochs=5, batch_size=64, learning_rate=1e-3, warmup=0, weight_decay=0.0)
    )

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise CompanionError(f"the share of weak pairs is {self.share}; expected a number in (0, 1].")


@dataclass(frozen=True)
class Isolation:
    """Settings of `isolation_losses`: gamma, the loss at which ABL's local gradient ascent holds a pair."""

    gamma: float = 0.5
    training: ClipTraining = field(
        default_factory=lambda: ClipTraining(epochs=1, batch_size=128, learning_rate=5e-4, warmup=10)
    )


@torch.no_grad()
def similarities(model: nn.Module, pairs: Pairs) -> torch.Tensor:
    """Return c_i = cos(f_I(I_i), f_T(T_i)) of every pair, (N,) float32 on the CPU."""
    return (image_embeddings(model, pairs.images) * text_embeddings(model, pairs.ids)).sum(1).cpu()


def weak_rows(similarity: torch.Tensor, share: float) -> torch.Tensor:
    """Return the rows of the fraction `share` of pairs with the lowest similarity, the lowest first (at least two)."""
    count = max(2, round(share * len(similarity)))
    return similarity.argsort(stable=True)[:count]


def overfitted(model: nn.Module, weak: Pairs, settings: Overfitting, generator: torch.Generator) -> nn.Module:
    """Return a copy of a CLIP trained on the weak pairs with L_CLIP, at a high learning rate, for a few epochs."""
    trained = copy.deepcopy(model)
    fit(trained, weak, settings.training, generator)
    return trained


def pair_losses(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor | float) -> torch.Tensor:
    """Return CLIP's loss of each pair of a batch, (N,): half image to text, half text to image; their mean is L_CLIP.

    images, texts: (N, D) of length one, row i of one belongs to row i of the other.
    """
    logits = scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    there, back = (F.cross_entropy(one, own, reduction="none") for one in (logits, logits.T))
    return (there + back) / 2


def isolation_losses(
    model: nn.Module, pairs: Pairs, settings: Isolation, generator: torch.Generator, batch_size: int = 128
) -> torch.Tensor:
    """Return each pair's loss, (N,), after ABL's isolation phase: what is learned fastest has the lowest loss.

    model: the CLIP that the training on the suspect pairs starts from; a copy is trained on sign(l_i - gamma) l_i, with
    l_i of `pair_losses`, so that pairs whose loss falls below gamma are pushed back up. The losses are then measured in
    random batches of `batch_size`, as CLIP's loss needs something to tell a pair apart from.
    """

    def ascending(network, images, ids, rows):
        found = pair_losses(embed_images(network, images), embed_texts(network, ids), scale_of(network))
        return ((found - settings.gamma).sign().detach() * found).mean()

    trained = copy.deepcopy(model)
    fit(trained, pairs, settings.training, generator, ascending)
    order = torch.randperm(len(pairs), generator=generator)
    losses = torch.zeros(len(pairs))
    with torch.no_grad():
        pictures, texts = image_embeddings(trained, pairs.images), text_embeddings(trained, pairs.ids)
        for rows in order.split(batch_size):
            losses[rows] = pair_losses(pictures[rows], texts[rows], scale_of(trained))
    return losses


def auroc(scores: torch.Tensor, positive: torch.Tensor) -> float:
    """Return the share of (positive, negative) pairs of rows in which the positive scores higher; ties count half.

    scores: (N,); positive: (N,) bool. Raises CompanionError when there is no positive, or no negative, row.

    >>> auroc(torch.tensor([0.9, 0.1, 0.5]), torch.tensor([True, False, False]))
    1.0
    """
    from scipy.stats import rankdata

    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        raise CompanionError(
            f"an AUROC over {yes} positive and {no} negative rows: expected at least one of each. Use a set with both."
        )
    ranks = rankdata(scores.double().numpy())
    return float((ranks[positive.numpy()].sum() - yes * (yes + 1) / 2) / (yes * no))


def most_suspicious(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Return the rows of the `count` highest scores, the highest first; CompanionError unless 1 <= count <= N."""
    if not 1 <= count <= len(scores):
        raise CompanionError(f"the {count} most suspicious of {len(scores)} pairs: expected a count from 1 to all.")
    return scores.argsort(descending=True, stable=True)[:count]


def precision_at(scores: torch.Tensor, positive: torch.Tensor, count: int) -> Proportion:
    """Return the share of positive rows among the `count` highest scores."""
    return Proportion(int(positive[most_suspicious(scores, count)].sum()), count)


def recall_at(scores: torch.Tensor, positive: torch.Tensor, count: int) -> Proportion:
    """Return the share of all positive rows that are among the `count` highest scores."""
    return Proportion(int(positive[most_suspicious(scores, count)].sum()), int(positive.sum()))
