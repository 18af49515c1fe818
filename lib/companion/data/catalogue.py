"""The way to data: `load("cifar10", "train")` gives checked images, whatever the files on the disk look like."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from companion.data import local, manifest
from companion.data.imageset import ImageSet
from companion.data.manifest import Manifest, Split
from companion.data.splits import share_indices
from companion.errors import CompanionError


@dataclass(frozen=True)
class Context:
    """What a loader is told: the data set's name and classes, the split it must read and that split's checked files.

    A loader has the form `load(context, split, **options) -> ImageSet`, `split` being the split's name.
    """

    name: str
    classes: tuple[str, ...]
    split: Split
    files: Mapping[str, Path]


def load(name: str, split: str, *, size: int | None = None, **options: object) -> ImageSet:
    """Return the images of one split of a data set.

    name: a manifest of data_manifests/; split: one of its splits; size: how many images, the first of the split (a
    generated world draws as many as are asked for); None gives all, or a generated world's default; options: those of
    the set's loader (`classes` and `seed` of a generated world). Each file's size and sha256 are checked first.

    Raises CompanionError for an unknown name, split or option, for a size that the split does not have, and for
    missing or wrong files.

    >>> load("digits", "train").shape
    (1, 16, 16)
    """
    description = manifest.load_manifest(name)
    rule = _split(description, split)
    if rule.of is not None:
        base = load(name, rule.of, **options)
        chosen = base.subset(share_indices(base.labels, rule))
        return _first(replace(chosen, name=name, split=split), size)
    loader, accepted = _loader(description, options)
    if size is not None and "size" in accepted:
        options["size"], size = size, None
    images = loader(
        Context(name, description.classes, rule, _checked_files(description, split, rule)), split, **options
    )
    if rule.images is not None and len(images) != rule.images:
        raise CompanionError(
            f"data set {name!r}, split {split!r}: {len(images)} images were read, "
            f"{description.source} says {rule.images}."
        )
    return _first(images, size)


def _first(images: ImageSet, size: int | None) -> ImageSet:
    if size is None:
        return images
    if not 1 <= size <= len(images):
        raise CompanionError(
            f"data set {images.name!r}, split {images.split!r}: {size} images were asked for; expected 1 to "
            f"{len(images)}, the number it has."
        )
    return images.subset(torch.arange(size))


def digest(name: str) -> str:
    """Return the sha256 over everything that decides the bits of the data set; prose and comments do not count."""
    description = manifest.load_manifest(name)
    trusted = {
        f"{layout.name}/{key}": local.trusted_digest(description, layout, key)
        for layout in description.layouts
        for key, file in {**layout.files, **layout.downloads}.items()
        if not file.verified
    }
    return manifest.digest(description, trusted)


def loader_module(name: str) -> str:
    """Return the module that reads or draws the data set, for example "companion.data.signs"."""
    return _loader_address(manifest.load_manifest(name))[0]


def _split(description: Manifest, split: str) -> Split:
    if split not in description.splits:
        raise CompanionError(
            f"data set {description.name!r} has no split {split!r}; {description.source} declares: "
            f"{', '.join(description.splits)}."
        )
    return description.splits[split]


def _checked_files(description: Manifest, split: str, rule: Split) -> dict[str, Path]:
    if not rule.files:
        return {}
    found = local.locate(description, rule.files)
    if found is None:
        raise CompanionError(
            f"data set {description.name!r}, split {split!r}, is not on this machine:\n  "
            + local.absence(description, rule.files)
        )
    for key in rule.files:
        local.check(description, found, key)
    return {key: found.path(key) for key in rule.files}


def _loader_address(description: Manifest) -> tuple[str, str]:
    if description.loader is None:
        raise CompanionError(
            f"data set {description.name!r} has no loader yet: it comes with the chapter {description.chapter!r}. "
            f"Its files can be fetched, verified and located with `companion data`."
        )
    module, function = description.loader.split(":")
    return module, function


def _loader(description: Manifest, options: Mapping[str, object]) -> tuple[Callable[..., ImageSet], list[str]]:
    module, function = _loader_address(description)
    try:
        loader = getattr(importlib.import_module(module), function)
    except (ModuleNotFoundError, AttributeError) as error:
        raise CompanionError(
            f"{description.source}: loader {description.loader!r} cannot be found: {error}."
        ) from error
    accepted = list(inspect.signature(loader).parameters)[2:]
    if unknown := sorted(set(options) - set(accepted)):
        raise CompanionError(
            f"data set {description.name!r}: unknown option {unknown[0]!r}; {description.loader} accepts: "
            f"{', '.join(accepted) or 'none'}."
        )
    return loader, accepted
