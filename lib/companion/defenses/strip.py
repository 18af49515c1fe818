"""STRIP (Gao et al., ACSAC 2019): an input whose prediction survives any overlay carries a trigger.

Each input x is added to N clean images, and the mean entropy H = (1/N) sum_n -sum_k y_k log y_k of the N predictions is
compared with a threshold that a share `false_rejection` of clean inputs falls below. H below the threshold: triggered.

The sum x + w overlay is not clipped to [0, 1], neither here nor in the official notebook, which adds float images with
`cv2.addWeighted`. So the model sees values up to 1 + w.
"""

import math
from dataclasses import dataclass

import torch
from scipy.stats import norm
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen
from companion.statistics import Proportion

IMAGES_AT_ONCE = 2000  # overlaid images that pass through the model together


@dataclass(frozen=True)
class Config:
    """Settings of STRIP; the defaults are those of the official notebook.

    overlays: N; weight: of the overlay (the input has weight 1); base: of the logarithm, so 2 for bits; rule: "normal"
    (a quantile of the normal distribution fitted to the clean entropies) or "quantile" (of the entropies themselves);
    false_rejection: share of clean inputs in (0, 1) that the threshold is meant to reject.
    """

    overlays: int = 100
    weight: float = 1.0
    base: float = 2.0
    rule: str = "normal"
    false_rejection: float = 0.01


ORIGINAL = Config()
BACKDOORBENCH = Config(overlays=64, weight=0.5, base=math.e, rule="quantile", false_rejection=0.05)


@dataclass(frozen=True)
class StripReport:
    """How STRIP separates.

    threshold: in the unit of the entropies; false_rejection: clean held-out inputs that are taken for triggered ones;
    false_acceptance: triggered inputs that are taken for clean ones.
    """

    threshold: float
    false_rejection: Proportion
    false_acceptance: Proportion


def entropies(
    model: nn.Module,
    images: torch.Tensor,
    overlays: torch.Tensor,
    generator: torch.Generator,
    config: Config = ORIGINAL,
) -> torch.Tensor:
    """Return the mean prediction entropy of each image under overlays, (B,) float32 on the CPU, >= 0.

    model: images to logits, held in evaluation mode meanwhile; images: (B, C, H, W) float32 in [0, 1]; overlays:
    (M, C, H, W) float32 in [0, 1], clean images that are not among `images`, M >= 1; generator: draws
    `config.overlays` of them for each image, with replacement and independently, as the official notebook does.
    A predicted probability of 0 adds 0 to the entropy. The largest value is log K of K classes: 3.32 bits for 10.
    Raises CompanionError when the shapes do not fit.
    """
    if images.ndim != 4 or overlays.ndim != 4 or not len(overlays) or images.shape[1:] != overlays.shape[1:]:
        raise CompanionError(
            f"STRIP got images of shape {tuple(images.shape)} and overlays of shape {tuple(overlays.shape)}; expected "
            "(B, C, H, W) and (M, C, H, W) with M >= 1."
        )
    size = (len(images), config.overlays)
    picks = torch.randint(len(overlays), size, generator=generator, device=generator.device)
    images, overlays, picks = (tensor.to(device_of(model)) for tensor in (images, overlays, picks))
    rows = max(1, IMAGES_AT_ONCE // config.overlays)
    found = [torch.empty(0)]
    with frozen(model), torch.inference_mode():
        for start in range(0, len(images), rows):
            chosen = overlays[picks[start : start + rows]]  # (b, N, C, H, W)
            mixed = images[start : start + rows].unsqueeze(1) + config.weight * chosen
            shares = model(mixed.flatten(0, 1)).float().softmax(1)  # (b N, K)
            surprise = torch.special.entr(shares).sum(1).view(-1, config.overlays)  # (b, N) in nats, 0 log 0 = 0
            found.append((surprise.mean(1) / math.log(config.base)).cpu())
    return torch.cat(found).clone()  # (B,); the clone leaves inference mode


def evaluate(
    clean_fit: torch.Tensor,
    clean_held_out: torch.Tensor,
    triggered: torch.Tensor,
    false_rejection: float = ORIGINAL.false_rejection,
    rule: str = ORIGINAL.rule,
) -> StripReport:
    """Fit the threshold to clean entropies, then count errors on other clean inputs and on triggered ones.

    clean_fit, clean_held_out, triggered: (n,) entropies from `entropies`, n >= 1 each, of disjoint images; pass only
    triggered inputs whose attack succeeds, or say that you did not. false_rejection and rule: see `Config`.
    An entropy equal to the threshold counts as clean. Raises CompanionError for an unknown rule, a share outside
    (0, 1), and entropies that are missing or not finite.
    """
    threshold = _threshold(clean_fit, false_rejection, rule)
    for what, values in (("held-out clean", clean_held_out), ("triggered", triggered)):
        _check_entropies(values, what)
    return StripReport(
        threshold,
        Proportion(int((clean_held_out < threshold).sum()), len(clean_held_out)),
        Proportion(int((triggered >= threshold).sum()), len(triggered)),
    )


def _threshold(clean: torch.Tensor, share: float, rule: str) -> float:
    _check_entropies(clean, "clean")
    if not 0 < share < 1:
        raise CompanionError(f"STRIP's false rejection rate is {share}; expected a share in (0, 1), such as 0.01.")
    values = clean.double()
    if rule == "normal":
        return float(values.mean() + norm.ppf(share) * values.std(correction=0))
    if rule == "quantile":
        return float(values.quantile(share))
    raise CompanionError(f'STRIP\'s rule is "{rule}"; expected "normal" or "quantile".')


def _check_entropies(values: torch.Tensor, what: str) -> None:
    if values.ndim != 1 or not len(values) or not torch.isfinite(values).all():
        raise CompanionError(
            f"the {what} entropies have shape {tuple(values.shape)}, {int(torch.isfinite(values).sum())} of them "
            "finite; expected (n,) finite numbers with n >= 1."
        )
