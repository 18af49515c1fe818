"""Repairing a backdoored CLIP with clean pairs: plain fine-tuning, CleanCLIP, and TA-Cleaner's sub-texts.

TA-Cleaner's equations were not read; what stands here is the fact sheet's reconstruction (section 2.2).
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from companion.errors import CompanionError
from companion.multimodal.clip_augmentation import changed_images
from companion.multimodal.clip_network import embed_images, embed_texts, scale_of
from companion.multimodal.clip_training import ClipTraining, clip_loss, fit
from companion.multimodal.contrastive import SUB_TEXT_FORMS, self_supervision, sub_text_loss, symmetric_loss
from companion.multimodal.pairs import Encode, Pairs, ids_of, stacked
from companion.multimodal.sub_texts import SubTexts, changed_texts
from companion.seeding import derive_seed, generator

METHODS = ("fine_tuning", "cleanclip", "ta_cleaner")


@dataclass(frozen=True)
class Repair:
    """Settings of a repair: L = clip_weight L_CLIP + self_weight L_SS + sub_text_weight L_TA.

    method: "fine_tuning" keeps the first term, "cleanclip" the first two, "ta_cleaner" all; sub_texts: m, pairs of each
    batch that get a positive and a negative sub-text, drawn anew each epoch; form: of L_TA, see `sub_text_loss`;
    excluded: words that never replace another in a negative sub-text (the target's, so that the defence is not told).
    """

    method: str
    training: ClipTraining = field(default_factory=ClipTraining)
    clip_weight: float = 1.0
    self_weight: float = 1.0
    sub_text_weight: float = 1.0
    sub_texts: int = 16
    form: str = "both"
    excluded: tuple[str, ...] = ()

    def __post_init__(self):
        if self.method not in METHODS or self.form not in SUB_TEXT_FORMS:
            raise CompanionError(
                f"repair {self.method!r} with the form {self.form!r}: expected a method of {', '.join(METHODS)} and a "
                f"form of {', '.join(SUB_TEXT_FORMS)}."
            )
        if self.method == "ta_cleaner" and not 2 <= self.sub_texts <= self.training.batch_size:
            raise CompanionError(
                f"{self.sub_texts} sub-texts in batches of {self.training.batch_size}: expected 2 to the batch size."
            )


def repair(
    model: nn.Module,
    clean: Pairs,
    settings: Repair,
    seed: int,
    on_epoch: Callable[[int, nn.Module], None] | None = None,
    encode: Encode = ids_of,
) -> nn.Module:
    """Return a repaired copy of a CLIP; the model itself stays as it is.

    clean: the defender's pairs; seed: of the order of the batches, the augmentations and the sub-texts, each with a
    stream of its own, so that two methods see the same batches; encode: gives token ids of changed texts and sub-texts,
    for this CLIP. Raises CompanionError for poisoned pairs among them.
    """
    if bool(clean.poisoned.any()):
        raise CompanionError(
            f"{int(clean.poisoned.sum())} of the defender's {len(clean)} pairs are poisoned: expected clean pairs only."
        )
    repaired = copy.deepcopy(model)
    objective = clip_loss if settings.method == "fine_tuning" else _objective(clean, settings, seed, encode)
    fit(repaired, clean, settings.training, generator(seed, "repair", "batches"), objective, on_epoch=on_epoch)
    return repaired


def _objective(clean: Pairs, settings: Repair, seed: int, encode: Encode):
    """Return the loss of CleanCLIP, with the sub-text term where the method has it."""
    changed = changed_texts(
        clean.captions, generator(seed, "repair", "texts"), encode
    )  # (N, L), once for the whole repair
    pictures = generator(seed, "repair", "pictures")
    fine = settings.method == "ta_cleaner" and settings.sub_text_weight > 0
    sampler = SubTexts(clean.captions, settings.excluded, encode) if fine else None
    stream = generator(derive_seed(seed, "repair", "sub-texts"))

    def loss(model: nn.Module, images: torch.Tensor, ids: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        count, device = len(images), images.device
        z = embed_images(model, torch.cat([images, changed_images(images, pictures)]))  # (2 B, D)
        texts = [ids, changed[rows].to(device)]
        if sampler is not None:
            chosen = torch.randperm(count, generator=stream)[: settings.sub_texts]  # (m,)
            near, far = sampler.draw(rows[chosen], stream)
            texts += [near.to(device), far.to(device)]
        t = embed_texts(model, stacked(texts))
        scale = scale_of(model)
        total = settings.clip_weight * symmetric_loss(z[:count], t[:count], scale)
        total = total + settings.self_weight * self_supervision(
            z[:count], z[count:], t[:count], t[count : 2 * count], scale
        )
        if sampler is not None:
            near, far = t[2 * count :].chunk(2)
            term = sub_text_loss(z[chosen.to(device)], near, far, scale, settings.form)
            total = total + settings.sub_text_weight * term
        return total

    return loss
