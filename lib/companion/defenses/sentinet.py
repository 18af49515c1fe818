"""SentiNet (Chou et al., IEEE S&P Workshops 2020): cut out what decided, paste it elsewhere, and see whether it rules.

Grad-CAM marks the region of a suspicious image that made the network answer. That region is pasted on clean images. A
trigger takes its label along (a high *fooled* share); the same region filled with random noise leaves the networks sure
of the images around it (a high *confidence*), because a trigger is small. An honest image's region is either too
large to leave others alone or too weak to rule them.

Two rules exist. The port flags an image by its confidence alone, above 0.9. The original fits a boundary to the
(confidence, fooled) points of clean images; the form used here, a parabola through the upper edge of these points, is a
reconstruction that was not checked against the paper.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from companion.errors import CompanionError
from companion.models.frozen import device_of, frozen

IMAGES_AT_ONCE = 2000  # pasted images that pass through the model together
RULES = ("confidence", "boundary")


@dataclass(frozen=True)
class Config:
    """Settings of SentiNet.

    mask_share: a pixel belongs to the region if Grad-CAM is at least this share of its largest value; rule: one of
    RULES; confidence: above which the first rule flags; bins, margin: of the second rule: the upper edge is taken in so
    many bins of the confidence, and an image is flagged if it is above it by more than the margin.
    """

    mask_share: float = 0.15
    rule: str = "confidence"
    confidence: float = 0.9
    bins: int = 10
    margin: float = 0.1

    def __post_init__(self):
        if self.rule not in RULES or not 0 < self.mask_share <= 1:
            raise CompanionError(f"{self}: expected a rule of {', '.join(RULES)} and a mask_share in (0, 1].")


PORT = Config()
ORIGINAL = Config(rule="boundary")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What pasting showed of B images: labels (B,) int64 that the network gave them; masks (B, H, W) bool, the regions;
    fooled (B,) and confidence (B,), float32 in [0, 1]: the share of clean images that take the label along, and the
    mean confidence in clean images that carry noise in the region."""

    labels: torch.Tensor
    masks: torch.Tensor
    fooled: torch.Tensor
    confidence: torch.Tensor


def grad_cam(model: nn.Module, layer: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return Grad-CAM of the predicted label, (B, H, W) in [0, 1], and the labels (B,).

    layer: a module of the model whose output are maps (B, C, h, w). The weight of a map is the mean gradient of the
    logit; the positive part of the weighted sum is enlarged bilinearly and divided by its maximum (0 stays 0).
    """
    kept = []
    handle = layer.register_forward_hook(lambda _m, _i, output: kept.append(output))
    try:
        with frozen(model), torch.enable_grad():
            logits = model(images.detach().requires_grad_())  # the graph must reach the layer though weights are frozen
            labels = logits.argmax(1)
            if len(kept) != 1 or kept[0].ndim != 4:
                raise CompanionError(
                    f"{type(layer).__name__} gave {[tuple(one.shape) for one in kept]}; expected maps (B, C, h, w)."
                )
            chosen = logits.gather(1, labels.unsqueeze(1)).sum()
            (gradient,) = torch.autograd.grad(chosen, kept[0])
    finally:
        handle.remove()
    maps = (gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1, keepdim=True).relu()  # (B, 1, h, w)
    large = F.interpolate(maps, size=images.shape[2:], mode="bilinear", align_corners=False).squeeze(1)
    return large / large.amax((1, 2), keepdim=True).clamp(min=1e-12), labels


def examine(
    model: nn.Module,
    layer: nn.Module,
    suspicious: torch.Tensor,
    clean: torch.Tensor,
    generator: torch.Generator,
    config: Config = PORT,
) -> Evidence:
    """Paste the region of each suspicious image on all clean ones, and the same region of noise.

    suspicious: (B, C, H, W) and clean: (N, C, H, W), float32 in [0, 1], disjoint; generator: draws the noise, uniform
    in [0, 1], once for each clean image. A clean image that the network already gives the suspicious label does not
    count in `fooled` (1 where none is left). Raises CompanionError for other shapes.
    """
    if suspicious.ndim != 4 or clean.ndim != 4 or not len(clean) or suspicious.shape[1:] != clean.shape[1:]:
        raise CompanionError(
            f"SentiNet got suspicious images {tuple(suspicious.shape)} and clean ones {tuple(clean.shape)}; expected "
            "(B, C, H, W) and (N, C, H, W) with N >= 1."
        )
    device = device_of(model)
    suspicious, clean = suspicious.to(device), clean.to(device)
    maps, labels = grad_cam(model, layer, suspicious)
    masks = maps >= config.mask_share  # (B, H, W)
    noise = torch.rand(clean.shape, generator=generator, device=generator.device).to(device)
    rows = max(1, IMAGES_AT_ONCE // len(clean))
    fooled, sure = [], []
    with frozen(model), torch.no_grad():
        before = model(clean).argmax(1)  # (N,)
        for start in range(0, len(suspicious), rows):
            here = slice(start, start + rows)
            mask = masks[here].unsqueeze(1).unsqueeze(1)  # (b, 1, 1, H, W)
            pasted = torch.where(mask, suspicious[here].unsqueeze(1), clean)  # (b, N, C, H, W)
            answers = model(pasted.flatten(0, 1)).argmax(1).view(len(pasted), -1)  # (b, N)
            wanted = labels[here].unsqueeze(1)
            other = before != wanted
            share = ((answers == wanted) & other).sum(1) / other.sum(1).clamp(min=1)
            fooled.append(torch.where(other.any(1), share, 1.0))
            inert = model(torch.where(mask, noise, clean).flatten(0, 1)).softmax(1).amax(1)
            sure.append(inert.view(len(pasted), -1).mean(1))
    return Evidence(labels.cpu(), masks.cpu(), torch.cat(fooled).cpu(), torch.cat(sure).cpu())


def flagged(found: Evidence, config: Config = PORT, reference: Evidence | None = None) -> torch.Tensor:
    """Return which images count as triggered, (B,) bool.

    reference: the evidence of clean images, which the rule "boundary" needs. Raises CompanionError without it.
    """
    if config.rule == "confidence":
        return found.confidence > config.confidence
    if reference is None or len(reference.fooled) < 3:
        raise CompanionError(
            'SentiNet\'s rule "boundary" needs the evidence of at least 3 clean images as `reference`.'
        )
    edge = boundary(reference.confidence, reference.fooled, config.bins)
    return found.fooled > torch.from_numpy(np.polyval(edge, found.confidence.double().numpy())) + config.margin


def boundary(confidence: torch.Tensor, fooled: torch.Tensor, bins: int) -> np.ndarray:
    """Return the coefficients of a parabola (fewer where few bins are filled) through the highest point of each bin."""
    place = (confidence.double() * bins).floor().clamp(0, bins - 1).long()
    tops = []
    for number in place.unique().tolist():
        inside = (place == number).nonzero().flatten()
        best = inside[fooled[inside].argmax()]
        tops.append((float(confidence[best]), float(fooled[best])))
    x, y = np.array(tops).T
    return np.polyfit(x, y, min(2, len(tops) - 1))


def mask_sizes(found: Evidence) -> torch.Tensor:
    """Return the pixels of each region, (B,) int64."""
    return found.masks.sum((1, 2))


def layer_of(model: nn.Module) -> nn.Module:
    """Return the last module of a model that ends with maps: its last convolution block or ReLU before the pooling."""
    blocks = getattr(model, "blocks", None)
    if blocks is not None and len(blocks):
        return blocks[-1]
    convolutions = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    if not convolutions:
        raise CompanionError(f"{type(model).__name__} has no convolution for Grad-CAM to look at; pass a layer.")
    return convolutions[-1]
