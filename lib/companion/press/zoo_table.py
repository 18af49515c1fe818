"""The base models that ship with the repository, as the book prints them: read from their cards, never typed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from companion import sources
from companion.errors import CompanionError
from companion.press import markup
from companion.press.convert import code, read_cells
from companion.press.edition import Edition

WEIGHTS = "lib/companion/multimodal/weights"  # the press reads the cards as files, without PyTorch
DIGESTS = "companion.multimodal.digests"


def base_models_html(edition: Edition) -> str:
    """Return the table of all base models.

    Raises `CompanionError` if the weights beside a card are not the ones that it tells of.
    """
    cards = [_read(edition, path.parent.name) for path in sorted((edition.project.root / WEIGHTS).glob("*/card.json"))]
    users = _users(edition)
    rows = [
        {
            "card": card,
            "settings": {name: _settings(card[name]) for name in ("recipe", "evaluation", "report")},
            "chapters": users.get(card["name"], []),
            "changed": card["sources"] != sources.sources_digest(card["modules"]),
            "folder": f"{edition.repository}/tree/{edition.branch}/{WEIGHTS}/{card['name']}",
            "training": f"api/{card['modules'][0].removeprefix('companion.').replace('.', '-').replace('_', '-')}.html",
        }
        for card in cards
    ]
    return markup.render("base-models.html.j2", rows=rows)


def _read(edition: Edition, name: str) -> dict[str, Any]:
    folder = edition.project.root / WEIGHTS / name
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    weights = folder / "weights.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "missing"
    if found != card["weights"]["sha256"]:
        raise CompanionError(
            f"{weights}: sha256 {found}, but card.json beside it tells of {card['weights']['sha256']}. The book does "
            f"not print the metrics of other weights: restore both, or build them anew (companion zoo build {name})."
        )
    return card


def _users(edition: Edition) -> Mapping[str, list[Any]]:
    """Return the chapters whose code reaches the digest of each base model, by the model's name."""
    found: dict[str, list[Any]] = {}
    for chapter in edition.chapters.values():
        path = edition.project.notebooks / chapter.slug / "chapter.py"
        if chapter.card is None or not path.is_file():
            continue
        for module in sources.reach(sources.imported_modules(code(read_cells(path)))):
            if module.startswith(f"{DIGESTS}."):
                found.setdefault(module.rpartition(".")[2].replace("_", "-"), []).append(chapter)
    return found


def _settings(values: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Return {dotted name: value} of nested settings, in JSON."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _settings(value, f"{above}{name}.")
        else:
            flat[f"{above}{name}"] = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return flat
