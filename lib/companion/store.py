"""A store of trained models, so that a model which two chapters or two runs share is trained once.

An entry is a folder named by a digest of everything that decides the weights. It is written under another name and
renamed when it is complete, so an entry that can be seen is whole, whatever kills the process that writes it.
"""

import hashlib
import importlib.metadata
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from companion.errors import CompanionError
from companion.sources import sources_digest

WEIGHTS = "weights.safetensors"
ENTRY = "entry.json"
LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "pillow")
INSTRUCTION_SETTINGS = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "MKL_CBWR")
OWN_INFO = ("recipe", "seconds", "trained_at")

State = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Stored:
    """A trained model as it was read from the store.

    state: the state dict, on the CPU; info: what the training reported, with "recipe", "seconds" (wall) and
    "trained_at" (UTC); key: the entry's name; fresh: whether this call trained it.
    """

    state: State
    info: dict
    key: str
    fresh: bool


class ModelStore:
    """Trained models in the folder `root`; `trained` and `reused` count what this object's calls did."""

    def __init__(self, root: str | Path):
        self.root = Path(root).absolute()
        self.trained = 0
        self.reused = 0

    def get_or_train(
        self, recipe: Mapping, train: Callable[[], tuple[State, dict]], modules: Iterable[str], data: str
    ) -> Stored:
        """Return the model of a recipe, training it if no entry has it; of several processes at once, one trains.

        recipe: every setting that decides the weights, the seed among them (JSON values and dataclasses of them; also
        the kind of device, where that may differ); train: called without arguments, returns the state dict and what to
        report of the training (JSON values); modules: companion modules that the training uses, whose reach counts;
        data: digest of the training data.
        What `train` returns is read back from the entry, so a fresh model and a reused one are the same bits.
        Raises `CompanionError` for a recipe that is not JSON, an entry that is damaged, or a folder that cannot be
        written; what `train` raises passes through, and nothing is stored.
        """
        parts = {"recipe": _plain(recipe, "recipe"), "sources": sources_digest(modules), "data": data}
        parts["numerics"] = numerics()
        key = hashlib.sha256(_canonical(parts).encode()).hexdigest()
        fresh = False
        if not self._folder(key).exists():
            with self._lock(key):
                if not self._folder(key).exists():  # another process may have trained it while this one waited
                    self._train(key, parts, train)
                    fresh = True
        state, info = _read(self._folder(key))
        self.trained += fresh
        self.reused += not fresh
        return Stored(state, info, key, fresh)

    def _folder(self, key: str) -> Path:
        return self.root / key

    def _lock(self, key: str) -> AbstractContextManager:
        """Hold the lock of a key; the system frees it when the process that holds it ends, however it ends."""
        locks = self.root / ".locks"
        try:
            locks.mkdir(parents=True, exist_ok=True)
            return FileLock(locks / key).acquire()
        except OSError as error:
            raise _unwritable(self.root, error) from error

    def _train(self, key: str, parts: dict, train: Callable[[], tuple[State, dict]]) -> None:
        begin = time.perf_counter()
        state, report = train()
        info = {"recipe": parts["recipe"], "seconds": round(time.perf_counter() - begin, 3)}
        info["trained_at"] = datetime.now(UTC).isoformat(timespec="seconds")
        taken = sorted(set(OWN_INFO) & set(report))
        if taken:
            raise CompanionError(f"the training reports {', '.join(taken)}: the store fills that in. Use another name.")
        entry = {"key": key, **parts, "info": _plain(report, "info") | info}
        partial = self.root / ".partial"
        for left in partial.glob(f"{key}.*"):  # of a process that was killed: only the holder of the lock writes here
            shutil.rmtree(left)
        folder = partial / f"{key}.{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
            _write(folder, state, entry)
            folder.rename(self._folder(key))
        except (OSError, SafetensorError) as error:
            raise _unwritable(self.root, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def default_store() -> ModelStore:
    """Return the store of the checkout, one object a process: COMPANION_STORE, else build/store (see COMPANION_BUILD).

    Raises `CompanionError` outside a checkout when neither variable is set.
    """
    if "COMPANION_STORE" in os.environ:
        return _store_at(Path(os.environ["COMPANION_STORE"]).absolute())
    if "COMPANION_BUILD" in os.environ:
        return _store_at(Path(os.environ["COMPANION_BUILD"]).absolute() / "store")
    origin = Path(os.environ.get("COMPANION_ROOT") or Path.cwd()).resolve()
    for folder in [origin, *origin.parents]:
        if (folder / "_config.yml").is_file() and (folder / "notebooks").is_dir():
            return _store_at(folder / "build" / "store")
    raise CompanionError(
        f"no place for trained models: no checkout at or above {origin}. Set COMPANION_STORE to a folder for them."
    )


@cache
def _store_at(root: Path) -> ModelStore:
    return ModelStore(root)


def numerics() -> dict:
    """Return what decides the bits of a computation beside code and data: libraries, instructions, threads."""
    return {
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "settings": {name: os.environ.get(name) for name in INSTRUCTION_SETTINGS},
        "threads": torch.get_num_threads(),
    }


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: object, where: str) -> object:
    """Return a value as JSON has it; raises `CompanionError` naming the place of what JSON does not have."""
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {name: _plain(part, f"{where}.{name}") for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part, f"{where}[{index}]") for index, part in enumerate(value)]
    exact = type(value) in (str, bool, int, type(None))  # a numpy or torch number may print otherwise tomorrow
    if exact or (type(value) is float and abs(value) < float("inf")):
        return value
    raise CompanionError(
        f"{where} is {value!r:.80}, a {type(value).__name__}: expected a text, a finite number, True, False, None, "
        "a list, a mapping with text keys, or a dataclass of these. Convert it first."
    )


def _write(folder: Path, state: State, entry: dict) -> None:
    plain = {
        name: tensor.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    save_file(plain, folder / WEIGHTS)
    entry = entry | {"weights_sha256": hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()}
    (folder / ENTRY).write_text(json.dumps(entry, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for name in (WEIGHTS, ENTRY):  # on the disk before the rename is, should the power fail
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())


def _read(folder: Path) -> tuple[State, dict]:
    try:
        entry = json.loads((folder / ENTRY).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
        if hashlib.sha256(weights).hexdigest() != entry["weights_sha256"]:
            raise ValueError(f"{WEIGHTS} has another sha256 than {ENTRY} says")
        return load(weights), entry["info"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CompanionError(
            f"the stored model {folder} is damaged ({error}): expected {ENTRY} and {WEIGHTS} as they were written. "
            "Delete that folder and run again; the model is then trained anew."
        ) from error


def _unwritable(root: Path, error: Exception) -> CompanionError:
    return CompanionError(
        f"cannot write to the store of trained models {root}: {error}. Free some space, or set COMPANION_STORE to a "
        "folder that can be written."
    )
