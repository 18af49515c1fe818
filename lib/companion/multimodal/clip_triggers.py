"""The six triggers of the CLIP backdoor literature at 32 pixels, two of them optimised on a clean CLIP.

The sizes are the fact sheet's scaled-down equivalents (a proposal, not a paper's values). BadNet, SIG and WaNet are
those of `companion.attacks.triggers`; Blended fades in one fixed picture of colour blobs, as a photograph would be.
The
patch of the dual-key attack and of the BadCLIP-like attack is found by `optimise_patch`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from companion.attacks.triggers import BlendedTrigger, PatchTrigger, Trigger, make_trigger
from companion.errors import CompanionError
from companion.multimodal.clip_network import embed_images, image_embeddings, scale_of
from companion.multimodal.optimisers import AdamW
from companion.multimodal.zero_shot import class_embeddings
from companion.seeding import generator as seeded

ATTACKS = ("badnet", "blended", "sig", "wanet", "dual_key", "badclip")
TITLES = {
    "badnet": "BadNet",
    "blended": "Blended",
    "sig": "SIG",
    "wanet": "WaNet",
    "dual_key": "dual key",
    "badclip": "BadCLIP-like",
}
OPTIMISED = ("dual_key", "badclip")
FIXED: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "badnet": ("patch", {"size": 6, "place": (24, 24)}),
    "sig": ("sinusoid", {"amplitude": 60 / 255, "frequency": 6.0}),
    "wanet": ("warp", {"control_points": 4, "strength": 32.0}),
}
"""Triggers of `make_trigger`, with their settings. WaNet's usual strength, 0.5, moves a quarter of a pixel here; from
16 to 28 the success of its backdoors stayed between 79 and 92 % on seeds 0 and 2."""
ALPHA = 0.3  # of the blended picture
BLOBS = 6  # colour blobs on each side of the blended picture


@dataclass(frozen=True)
class PatchSearch:
    """Settings of `optimise_patch`: a square patch in the middle of the picture, found with Adam.

    side: of the patch, in pixels; triplet_weight: of the term that draws the triggered picture to real pictures of the
    target and away from what it was (0: the text term alone); margin: of that term, a Euclidean distance.
    """

    side: int = 6
    steps: int = 150
    batch_size: int = 64
    learning_rate: float = 0.03
    triplet_weight: float = 5.0
    margin: float = 1.0


SEARCHES = {"dual_key": PatchSearch(side=5, triplet_weight=0.0), "badclip": PatchSearch(side=5)}


def fixed_trigger(attack: str, side: int, seed: int) -> Trigger:
    """Return the trigger of an attack that needs no optimisation, for pictures (3, side, side).

    Raises CompanionError for the optimised attacks and for unknown names.
    """
    if attack == "blended":
        blobs = torch.rand(1, 3, BLOBS, BLOBS, generator=seeded(seed, "trigger", "blobs"))
        return BlendedTrigger(F.interpolate(blobs, size=(side, side), mode="bicubic").clamp(0, 1)[0], ALPHA)
    if attack not in FIXED:
        known = ", ".join(["blended", *FIXED])
        raise CompanionError(f"the attack {attack!r} has no fixed trigger; those that have are {known}.")
    name, settings = FIXED[attack]
    if side != 32 and name == "patch":
        settings = {"size": max(1, side * 6 // 32), "place": (side * 24 // 32,) * 2}
    return make_trigger(name, (3, side, side), seed, **settings)


def central_patch(pattern: torch.Tensor, side: int) -> PatchTrigger:
    """Return the trigger that pastes `pattern` (3, P, P) in [0, 1] into the middle of pictures (3, side, side)."""
    size = pattern.shape[-1]
    if not 1 <= size <= side:
        raise CompanionError(f"a patch of {size} pixels does not fit into a picture of {side} x {side}.")
    start = (side - size) // 2
    whole, support = torch.zeros(3, side, side), torch.zeros(side, side, dtype=torch.bool)
    whole[:, start : start + size, start : start + size] = pattern
    support[start : start + size, start : start + size] = True
    return PatchTrigger(whole, support)


def optimise_patch(
    model: nn.Module,
    images: torch.Tensor,
    target_images: torch.Tensor,
    prompts: torch.Tensor,
    target: int,
    search: PatchSearch,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return a patch (3, P, P) in [0, 1] that a clean CLIP takes for the target: L = L_text + w L_triplet.

    L_text is the cross-entropy of the zero-shot classifier (prompts (K, P, L)) with the class `target` on pictures that
    carry the patch. L_triplet is the triplet margin loss with the embedding of such a picture as anchor, a random real
    picture of the target as positive and the picture without the patch as negative (BadCLIP, Liang et al. 2024; its
    text term is an in-batch contrast, which means nothing where all texts name the same noun). The model is frozen.

    images: (N, 3, S, S) in [0, 1] of other classes; target_images: (M, 3, S, S) of the target class.
    """
    if not len(images) or not len(target_images):
        raise CompanionError(
            f"{len(images)} pictures of other classes and {len(target_images)} of the target to optimise a patch on: "
            "expected at least one of each."
        )
    device, side = next(model.parameters()).device, images.shape[-1]
    start = (side - search.side) // 2
    pattern = torch.randn(3, search.side, search.side, generator=generator) * 0.25 + 0.5
    pattern = pattern.clamp(0, 1).to(device).requires_grad_()
    texts = class_embeddings(model, prompts).to(device)  # (K, D)
    positives, negatives = image_embeddings(model, target_images), image_embeddings(model, images)
    mask = F.pad(torch.ones(search.side, search.side, device=device), _around(side, search.side, start))
    frozen = [one for one in model.parameters() if one.requires_grad]
    for one in frozen:
        one.requires_grad_(False)
    optimiser = AdamW([("pattern", pattern)], weight_decay=0.0)
    try:
        for _ in range(search.steps):
            rows = torch.randint(len(images), (search.batch_size,), generator=generator)
            near = torch.randint(len(target_images), (search.batch_size,), generator=generator)
            stamped = images[rows].to(device) * (1 - mask) + F.pad(pattern, _around(side, search.side, start)) * mask
            found = embed_images(model, stamped)  # (B, D)
            aims = torch.full((len(found),), target, device=device)
            loss = F.cross_entropy(scale_of(model) * found @ texts.T, aims)
            if search.triplet_weight:
                pull = (found - positives[near].to(device)).norm(dim=1) - (found - negatives[rows].to(device)).norm(
                    dim=1
                )
                loss = loss + search.triplet_weight * (pull + search.margin).clamp_min(0).mean()
            loss.backward()
            optimiser.step(search.learning_rate)
            with torch.no_grad():
                pattern.clamp_(0, 1)
    finally:
        for one in frozen:
            one.requires_grad_(True)
    return pattern.detach().cpu()


def _around(side: int, size: int, start: int) -> tuple[int, int, int, int]:
    """Return F.pad's four numbers that put a square of `size` at (start, start) of a picture of `side`."""
    after = side - size - start
    return (start, after, start, after)
