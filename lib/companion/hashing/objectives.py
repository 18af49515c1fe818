"""The losses of weighted contrastive hashing and of its rivals, for a bank of S hash heads at once.

Codes h are (S, B, bits) of -1 and 1 with the gradient of tanh; heads shorter than the longest have zeros behind their
last bit, which `lengths` (S,) says. Every loss is (S,), one number a head, so that their sum trains each head as if it
were alone. The weighted loss follows the official code of Yu et al. (2022). The rivals are written from what the field
knows of them, not from their papers or code, and are called "-like" for that reason.
"""

import torch
import torch.nn.functional as F

from companion.hashing.warmup import nt_xent


def straight_through_sign(soft: torch.Tensor) -> torch.Tensor:
    """Return the signs (-1 or 1; 1 for 0) of `soft`; the gradient passes as if nothing had been done."""
    hard = torch.where(soft >= 0, 1.0, -1.0).to(soft.dtype)
    return hard + (soft - soft.detach())  # exactly -1 or 1


def weighted_contrastive(
    first: torch.Tensor, second: torch.Tensor, weights: torch.Tensor, lengths: torch.Tensor, temperature: float = 0.3
) -> torch.Tensor:
    """Return -(1/B) sum_ab W_ab log softmax_b(<h1_a, h2_b> / (bits tau)), (S,).

    first, second: codes of the two views (S, B, bits); weights: W (S, B, B), the identity for plain contrastive.
    """
    logits = first @ second.transpose(1, 2) / (lengths.view(-1, 1, 1) * temperature)  # (S, B, B)
    return -(weights * logits.log_softmax(-1)).sum(-1).mean(-1)


def balance_and_energy(codes: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return mean over bits of (mean over batch h)^2 - mean over both of h^2, (S,), of codes (S, B, bits).

    The first term asks for bits that are 1 for half of the images. The second is -1 whatever the codes are, but its
    straight-through gradient pushes |tanh| to 1.
    """
    balance = codes.mean(1).square().sum(-1) / lengths
    energy = codes.square().mean(1).sum(-1) / lengths
    return balance - energy


def similarity_preserving(codes: torch.Tensor, features: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean squared difference of code and feature similarities, (S,).

    codes: (S, B, bits); features: (B, D), compared by cosine after their mean over the batch is taken off.
    """
    centred = F.normalize(features - features.mean(0), dim=-1)
    target = centred @ centred.T  # (B, B)
    found = codes @ codes.transpose(1, 2) / lengths.view(-1, 1, 1)
    return (found - target).square().mean((1, 2))


def greedy_penalty(soft: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean of |tanh - sign|^3, (S,), as GreedyHash (Su et al., 2018) pulls activations to their signs.

    soft: (S, B, bits), zero behind a head's last bit.
    """
    inside = _inside(soft, lengths)
    return ((soft.abs() - 1).abs().pow(3) * inside).mean(1).sum(-1) / lengths


def bi_half(soft: torch.Tensor) -> torch.Tensor:
    """Return codes (S, B, bits) with exactly B // 2 ones in each bit: the images with the largest activations get 1.

    The gradient passes straight through, as in Bi-half (Li and van Gemert, 2021). soft: (S, B, bits).
    """
    ranks = soft.detach().argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    half = (soft.shape[1] + 1) // 2
    hard = torch.where(ranks >= half, 1.0, -1.0).to(soft.dtype)
    return hard + (soft - soft.detach())  # exactly -1 or 1


def distance_to_half(soft: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Return the mean squared distance of activations (S, B, bits) to their balanced codes, (S,)."""
    inside = _inside(soft, lengths)
    return ((soft - bi_half(soft).detach()).square() * inside).mean(1).sum(-1) / lengths


def sampled_codes(soft: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """Return codes drawn at random, 1 with probability (1 + soft) / 2, else -1; the gradient passes straight through.

    soft: (S, B, bits) in [-1, 1]; draws: uniform numbers of the same form, or one that broadcasts to it.
    """
    hard = torch.where(draws < (1 + soft.detach()) / 2, 1.0, -1.0).to(soft.dtype)
    return hard + (soft - soft.detach())  # exactly -1 or 1


def information_bottleneck(
    first: torch.Tensor,
    second: torch.Tensor,
    lengths: torch.Tensor,
    codes: tuple[torch.Tensor, torch.Tensor],
    temperature: float = 0.3,
    weight: float = 0.001,
) -> torch.Tensor:
    """Return the loss of CIBHash (Qiu et al., 2021), (S,): a contrastive loss on sampled codes, and `weight` times the
    divergence of the two views' Bernoulli variables (both directions, mean over images and bits).

    first, second: activations (S, B, bits) in [-1, 1] of the two views; codes: samples of them.
    """
    inside = _inside(first, lengths)
    p, q = ((1 + soft.clamp(-0.999, 0.999)) / 2 for soft in (first, second))
    divergence = (p - q) * (p.logit() - q.logit()) / 2  # of p from q and q from p, halved
    mean = (divergence * inside).mean(1).sum(-1) / lengths
    return nt_xent(codes[0] * inside, codes[1] * inside, temperature) + weight * mean


def _inside(soft: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """(S, 1, bits): 1 where a head has a bit."""
    return (torch.arange(soft.shape[-1], device=soft.device) < lengths.view(-1, 1, 1)).to(soft.dtype)
