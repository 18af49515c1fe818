"""The zoo of base models: which there are, how one is trained and written, and whether it still is what its card says.

No chapter imports this module: a chapter's key covers its own base model, and nothing of the others.
"""

import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from companion.errors import CompanionError
from companion.multimodal import base_models
from companion.multimodal.base_models import WEIGHTS, BaseModel, construct_with, load_base, own_names
from companion.sources import reach, sources_digest
from companion.store import ModelStore, Stored, numerics

BASES = {
    "clip-scenes": "companion.multimodal.clip_base:BASE",
    "diffusion-scenes": "companion.multimodal.diffusion_base:BASE",
    "llava-scenes": "companion.multimodal.llava_base:BASE",
}
"""Where each base model stands, as module:constant."""

FULL_SCALE = {"llava-scenes": 100.0}
"""What a metric's tolerance is a share of, where metrics are not shares of 1 but percent."""

CARD = "card.json"
DIGESTS = base_models.SHIPPED.with_name("digests")
LIMIT = 20_000_000
"""Bytes that all shipped weights may take together."""
LIBRARIES = ("torch", "transformers", "diffusers", "tokenizers", "safetensors", "numpy")
CARD_FIELDS = {
    "name": str, "title": str, "recipe": dict, "evaluation": dict, "metrics": dict, "report": dict, "weights": dict,
    "modules": list, "sources": str, "versions": dict, "numerics": dict, "device": str, "seconds": float,
    "trained_at": str,
}  # fmt: skip
WEIGHTS_FIELDS = {"sha256": str, "bytes": int, "parameters": int, "dtype": str}


@dataclass(frozen=True)
class Place:
    """Where shipped weights and their digests lie; elsewhere in tests."""

    weights: Path = base_models.SHIPPED
    digests: Path = DIGESTS

    def folder(self, name: str) -> Path:
        """Return the folder of a base model."""
        return self.weights / name

    def digest(self, name: str) -> Path:
        """Return the module that holds a base model's digest."""
        return self.digests / f"{name.replace('-', '_')}.py"


@dataclass(frozen=True)
class Comparison:
    """One metric: what the card has, what was found now, and how far apart they may lie, as a share of `full`."""

    metric: str
    recorded: float | None
    found: float | None
    tolerance: float
    full: float = 1.0

    @property
    def equal(self) -> bool:
        """Whether both are the same number."""
        return self.recorded == self.found

    @property
    def close(self) -> bool:
        """Whether they lie within the tolerance."""
        if self.recorded is None or self.found is None:
            return False
        return abs(self.found - self.recorded) <= self.tolerance * max(self.full, abs(self.recorded))


def find(name: str) -> BaseModel:
    """Return the base model of a name; raises `CompanionError` for a name that the zoo does not have."""
    if name not in BASES:
        raise CompanionError(f'unknown base model "{name}": expected one of {", ".join(BASES)}.')
    module, constant = BASES[name].split(":")
    return getattr(importlib.import_module(module), constant)


def build(base: BaseModel, store: ModelStore, device: str = "cpu", place: Place | None = None) -> dict[str, Any]:
    """Train a base model, or take it from the store; write its weights, its card and its digest; return the card.

    Raises `CompanionError` if the training's sources reach the digest that it changes, and if all weights together
    would be more than `LIMIT` bytes; nothing is written then.
    """
    place = place or Place()
    _check_sources(base)
    stored = _train(base, store, device)
    content = _file_content(base, stored)
    others = sum(path.stat().st_size for path in place.weights.glob(f"*/{WEIGHTS}") if path.parent.name != base.name)
    if others + len(content) > LIMIT:
        raise CompanionError(
            f"{base.name} takes {len(content):,} bytes and the other base models {others:,}: expected at most "
            f"{LIMIT:,} in all, as they ship with the repository. Make the network smaller, or set half=True."
        )
    card = _card(base, stored, content, device)
    text = json.dumps(card, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    _replace_folder(place.folder(base.name), {WEIGHTS: content, CARD: text.encode()})
    _replace_file(place.digest(base.name), _digest_module(base.name, card["weights"]["sha256"]).encode())
    return card


def read_card(name: str, place: Place | None = None) -> dict[str, Any]:
    """Return the card of shipped weights; raises `CompanionError` if it is missing or is not a card."""
    path = (place or Place()).folder(name) / CARD
    remedy = f"Restore it from the repository, or make it anew: companion zoo build {name}."
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CompanionError(f"the card of {name} is missing: expected {path}. {remedy}") from None
    except ValueError as error:
        raise CompanionError(f"{path} is damaged ({error}): expected a card in JSON. {remedy}") from error
    for fields, values, where in ((CARD_FIELDS, card, ""), (WEIGHTS_FIELDS, _weights_of(card), "weights.")):
        for field, kind in fields.items():
            value = values.get(field) if isinstance(values, dict) else None
            if not isinstance(value, kind):
                raise CompanionError(
                    f"{path} is damaged: {where}{field} is {value!r:.60}, expected a value of the kind "
                    f"{kind.__name__}. {remedy}"
                )
    if card["name"] != name:
        raise CompanionError(f'{path} is the card of "{card["name"]}": expected that of "{name}". {remedy}')
    return card


def state_of(base: BaseModel, place: Place | None = None) -> list[str]:
    """Return what is not current about shipped weights, one reason an entry; nothing if all is.

    Compared are the digests of file, card and digest module, the recipe, the evaluation and the training's sources.
    """
    place = place or Place()
    path = place.folder(base.name) / WEIGHTS
    if not path.is_file():
        return ["not built" if not base.sha256 else "weights missing"]
    card = read_card(base.name, place)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    reasons = []
    if found != base.sha256:
        reasons.append("digest of the weights differs")
    if card["weights"]["sha256"] != found:
        reasons.append("card of other weights")
    if card["recipe"] != plain(base.recipe):
        reasons.append("recipe changed")
    if card["evaluation"] != plain(base.evaluation):
        reasons.append("evaluation changed")
    if card["sources"] != sources_digest(base.modules):
        reasons.append("sources changed")
    return reasons


def evaluate_shipped(base: BaseModel, place: Place | None = None) -> list[Comparison]:
    """Return every metric of the shipped weights, evaluated anew, beside the card's.

    Raises `CompanionError` if the weights are not what the digest says.
    """
    place = place or Place()
    network = load_base(base, folder=place.folder(base.name))
    return _compare(base, base.evaluate(network, base.evaluation), read_card(base.name, place), base.tolerance)


def retrain(base: BaseModel, store: ModelStore, device: str = "cpu", place: Place | None = None):
    """Train a base model from its recipe in `store` (an empty one, if it shall be trained and not found there).

    Returns (whether the weights have the shipped digest, every metric beside the card's).
    """
    stored = _train(base, store, device)
    content = _file_content(base, stored)
    card = read_card(base.name, place)
    found = _evaluate(base, content)
    same = hashlib.sha256(content).hexdigest() == card["weights"]["sha256"]
    return same, _compare(base, found, card, base.retraining_tolerance)


def plain(settings: Any) -> dict[str, Any]:
    """Return a dataclass of settings as JSON reads it back."""
    return json.loads(json.dumps(asdict(settings), allow_nan=False))


def _train(base: BaseModel, store: ModelStore, device: str) -> Stored:
    recipe = {
        "kind": "base model",
        "name": base.name,
        "recipe": base.recipe,
        "device": torch.device(device).type,
        "versions": _versions(),
    }

    def train():
        network, report = base.train(base.recipe, torch.device(device))
        network = network.cpu().eval()
        own, state = own_names(network), network.state_dict()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return {name: state[name] for name in own}, {"report": dict(report), "parameters": parameters}

    return store.get_or_train(recipe, train, base.modules, "drawn from the recipe's seeds")


def _check_sources(base: BaseModel) -> None:
    digest = f"companion.multimodal.digests.{base.name.replace('-', '_')}"
    if digest in reach(base.modules):
        raise CompanionError(
            f"the training of {base.name} ({', '.join(base.modules)}) reaches {digest}, which changes when the "
            "training ends: expected modules that do not import it. Keep the BaseModel constant in a module of its own."
        )


def _file_content(base: BaseModel, stored: Stored) -> bytes:
    state = {
        name: tensor.half().contiguous() if base.half and tensor.is_floating_point() else tensor.contiguous()
        for name, tensor in stored.state.items()
    }
    return save(state)


def _evaluate(base: BaseModel, content: bytes) -> dict[str, float]:
    network = construct_with(base, base_models.read_safetensors(content), "the training")
    return {name: float(value) for name, value in base.evaluate(network, base.evaluation).items()}


def _card(base: BaseModel, stored: Stored, content: bytes, device: str) -> dict[str, Any]:
    return {
        "name": base.name,
        "title": base.title,
        "recipe": plain(base.recipe),
        "evaluation": plain(base.evaluation),
        "metrics": _evaluate(base, content),
        "report": stored.info["report"],
        "weights": {
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "parameters": stored.info["parameters"],
            "dtype": "float16" if base.half else "float32",
        },
        "modules": list(base.modules),
        "sources": sources_digest(base.modules),
        "versions": _versions() | {"python": platform.python_version()},
        "numerics": numerics(),
        "device": torch.device(device).type,
        "seconds": float(stored.info["seconds"]),
        "trained_at": stored.info["trained_at"],
    }


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES}


def _weights_of(card: Any) -> Any:
    return card.get("weights") if isinstance(card, dict) else None


def _compare(
    base: BaseModel, found: Mapping[str, float], card: Mapping[str, Any], tolerance: float
) -> list[Comparison]:
    recorded, full = card["metrics"], FULL_SCALE.get(base.name, 1.0)
    names = [*recorded, *(name for name in found if name not in recorded)]
    return [Comparison(name, recorded.get(name), found.get(name), tolerance, full) for name in names]


def _digest_module(name: str, sha256: str) -> str:
    return (
        f'"""The shipped weights of {name}. Written by `companion zoo build {name}`; do not edit."""\n\n'
        f'SHA256 = "{sha256}"\n'
    )


def _replace_file(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files beside the folder and put them in its place in one rename; half a folder is never seen."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    former = partial.with_name(f"{partial.name}.former")
    try:
        partial.mkdir()
        for name, content in files.items():
            with (partial / name).open("wb") as file:
                file.write(content)
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(former)
        partial.rename(folder)
    finally:
        for left in (partial, former):
            shutil.rmtree(left, ignore_errors=True)
