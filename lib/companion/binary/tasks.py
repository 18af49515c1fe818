"""Tasks of one form: data sets of the catalogue as grey square pictures of one size, so that one network fits all."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

from companion.data import catalogue
from companion.data.imageset import ImageSet
from companion.data.manifest import load_manifest
from companion.errors import CompanionError


@dataclass(frozen=True)
class Task:
    """A task by name.

    data: a manifest's name; options: for its loader; modality: "image" or "audio"; keep: the labels that belong to the
    task, () for all; they are counted anew from 0.
    """

    name: str
    data: str
    options: Mapping[str, object] = field(default_factory=dict)
    modality: str = "image"
    keep: tuple[int, ...] = ()


def load_task(task: Task, split: str, size: int, side: int) -> ImageSet:
    """Return up to `size` images of a split of a task, (N, 1, side, side) float32 in [0, 1], named after the task.

    A split with fewer images gives all of them.
    """
    options = dict(task.options)
    if task.modality == "audio":
        options["side"] = side
    if load_manifest(task.data).kind == "generated":
        of_each = options.get("classes", 1) / (len(task.keep) or options.get("classes", 1))
        found = _kept(catalogue.load(task.data, split, size=round(of_each * size), **options), task.keep)
    else:
        found = _kept(catalogue.load(task.data, split, **options), task.keep)
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))  # one and the same for all
        found = found.subset(order[:size])
    return replace(prepare(found, side), name=task.name)


def _kept(data: ImageSet, keep: tuple[int, ...]) -> ImageSet:
    """Return the images whose label is in `keep`, labels counted anew."""
    if not keep:
        return data
    place = torch.full((len(data.classes),), -1)
    place[list(keep)] = torch.arange(len(keep))
    chosen = data.subset(place[data.labels] >= 0)
    return replace(chosen, labels=place[chosen.labels], classes=tuple(data.classes[label] for label in keep))


def prepare(data: ImageSet, side: int) -> ImageSet:
    """Return a data set in grey, its central square resized to `side`: (N, 1, side, side).

    Grey is 0.299 R + 0.587 G + 0.114 B; pictures are averaged over areas, or enlarged bilinearly.
    """
    images = data.images
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise CompanionError(f"images {tuple(images.shape)} of {data.name}: expected (N, 1 or 3, H, W).")
    if images.shape[1] == 3:
        images = (images * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    height, width = images.shape[2:]
    small = min(height, width)
    top, left = (height - small) // 2, (width - small) // 2
    images = images[:, :, top : top + small, left : left + small]
    if small > side:
        images = F.adaptive_avg_pool2d(images, side)
    elif small < side:
        images = F.interpolate(images, size=side, mode="bilinear", align_corners=False)
    return replace(data, images=images.clamp(0, 1).contiguous())


def digest(tasks: Iterable[Task]) -> str:
    """Return a digest of the data behind tasks, for the store."""
    return hashlib.sha256(" ".join(catalogue.digest(task.data) for task in tasks).encode()).hexdigest()
