"""What TensorFlow Lite measured on the chapter's models: recorded, because its tools are no dependency of this book.

`benchmarks/tflite_int8.py` makes the record and writes its digest below, so that a new record changes the chapter's
key. A number in it belongs to one model: the recipe, the sources and the data that made it (`victims.source_key`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

from companion.errors import CompanionError
from companion.quantization.victims import Recipe, source_key
from companion.statistics import Proportion

DIGEST = "ff9359b871a0d17505ee93624cfdc194e40a1fbd08ad67f7776dd4b34437c433"


@dataclass(frozen=True)
class Measured:
    """What TensorFlow Lite gave for one model.

    outcomes: by kind ("float32", "int8", and "int8 dense tensor", with one scale for a dense layer, as older converters
    had it), accuracy and attack success; compared, foreign: integer weights, and those unlike the emulator's; date: of
    the measurement; versions: of the tools.
    """

    outcomes: Mapping[str, tuple[Proportion, Proportion]]
    compared: int
    foreign: int
    date: str
    versions: Mapping[str, str]
    key: str


KINDS = ("float32", "int8", "int8 dense tensor")


def measured(recipe: Recipe) -> Measured | None:
    """Return what was recorded for exactly this model, or None; raises `CompanionError` for a damaged record."""
    record = load()
    key = source_key(recipe)
    entry = record["entries"].get(key)
    if entry is None:
        return None
    outcomes = {kind: tuple(Proportion(*pair) for pair in entry["outcomes"][kind]) for kind in KINDS}
    return Measured(outcomes, entry["compared"], entry["foreign"], record["date"], record["versions"], key)


def load() -> dict:
    """Return the whole record: date, command, versions, and entries by key."""
    text = files("companion.quantization").joinpath("tflite_record.json").read_text(encoding="utf-8")
    found = hashlib.sha256(text.encode()).hexdigest()
    if found != DIGEST:
        raise CompanionError(
            f"the record of TensorFlow Lite has the sha256 {found}, expected {DIGEST}: it was edited by hand. Make it "
            "anew with benchmarks/tflite_int8.py."
        )
    return json.loads(text)
