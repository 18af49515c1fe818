"""The printed table of base models says what their cards say, and refuses a card of other weights."""

import hashlib
import json

import pytest
from bs4 import BeautifulSoup
from toy_book import ToyBook

from companion import sources
from companion.errors import CompanionError
from companion.press.edition import read_edition
from companion.press.project import Project
from companion.press.zoo_table import WEIGHTS, base_models_html


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPANION_ROOT", str(tmp_path))
    monkeypatch.delenv("COMPANION_BUILD", raising=False)
    return ToyBook(tmp_path)


def ship(root, name, **changes):
    content = f"weights of {name}".encode()
    card = {
        "name": name,
        "title": "a <small> CLIP",
        "recipe": {"seed": 0, "size": {"width": 64, "rates": [0.1, 0.2]}},
        "evaluation": {"scenes": 500},
        "metrics": {"zero_shot_accuracy": 0.81251},
        "report": {},
        "weights": {
            "dtype": "float32",
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": 1_650_000,
            "parameters": 412345,
        },
        "modules": ["companion.seeding"],
        "sources": sources.sources_digest(["companion.seeding"]),
        "versions": {"torch": "2.12.1"},
        "device": "cpu",
        "seconds": 271.4,
        "trained_at": "2026-11-21T13:00:00+00:00",
    }
    folder = root / WEIGHTS / name
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(content)
    (folder / "card.json").write_text(json.dumps(card | changes))
    return card | changes


def printed(toy):
    return BeautifulSoup(base_models_html(read_edition(Project(toy.root), "laptop")), "html.parser")


def test_a_row_says_what_the_card_says(toy):
    card = ship(toy.root, "clip-scenes")
    ship(toy.root, "llava-scenes", sources="0" * 64)
    toy.edit(
        "notebooks/belt/chapter.py", "import matplotlib\n\n", "import companion.multimodal.digests.clip_scenes\n\n"
    )
    clip, llava = printed(toy).tbody.find_all("tr")
    cells = [" ".join(cell.get_text(" ").split()) for cell in clip.find_all("td")]
    assert cells == ["zero_shot_accuracy 0.8125", "412,345 parameters 1.6 MB trained in 271 s (cpu)", "belt"]
    shown = " ".join(clip.th.get_text(" ").split())
    assert shown.startswith("clip-scenes a <small> CLIP") and card["weights"]["sha256"] in shown
    assert "size.width 64" in shown and "size.rates [0.1, 0.2]" in shown and "scenes 500" in shown
    assert "edited since" not in clip.get_text() and "edited since" in llava.get_text()
    assert llava.find_all("td")[-1].get_text() == "–"


def test_the_metrics_of_other_weights_are_not_printed(toy):
    ship(toy.root, "clip-scenes")
    (toy.root / WEIGHTS / "clip-scenes/weights.safetensors").write_bytes(b"others")
    found = hashlib.sha256(b"others").hexdigest()
    with pytest.raises(CompanionError, match=rf"sha256 {found}, but card.json.*companion zoo build clip-scenes"):
        printed(toy)


def test_without_base_models_the_page_says_so(toy):
    assert "No base model ships yet" in printed(toy).get_text()
