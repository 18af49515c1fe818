import json
import multiprocessing
import os
import random
import signal
import time
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from safetensors.torch import load_file

import companion.store
from companion.errors import CompanionError
from companion.models.build import build_model
from companion.seeding import generator
from companion.store import ENTRY, WEIGHTS, ModelStore, default_store

MODULES = ["companion.errors"]
FORK = multiprocessing.get_context("fork")  # the children need not import torch again


@pytest.fixture
def store(tmp_path):
    return ModelStore(tmp_path / "store")


class Training:
    """A training that counts how often it was called."""

    def __init__(self, value=1.0):
        self.calls, self.value = 0, value

    def __call__(self):
        self.calls += 1
        return {"weight": torch.full((3, 2), self.value)}, {"accuracy": 0.75}


def get(store, training, recipe=None, data="d"):
    return store.get_or_train(recipe or {"seed": 0}, training, MODULES, data)


def raw(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def entries(root):
    return [path for path in root.iterdir() if not path.name.startswith(".")]


def test_the_same_recipe_is_trained_once(store):
    training = Training()
    first, again = get(store, training), get(store, training)
    elsewhere = get(ModelStore(store.root), training)
    assert training.calls == 1
    assert (first.fresh, again.fresh, elsewhere.fresh) == (True, False, False)
    assert (store.trained, store.reused) == (1, 1)
    assert first.info == again.info == elsewhere.info
    assert first.info["accuracy"] == 0.75
    assert first.info["recipe"] == {"seed": 0}
    assert first.info["seconds"] >= 0 and first.info["trained_at"].endswith("+00:00")
    assert torch.equal(first.state["weight"], again.state["weight"])


@dataclass(frozen=True)
class Settings:
    rate: float
    sizes: tuple[int, ...]


@pytest.mark.parametrize("recipe", [{"seed": 1}, {"seed": 0, "more": None}, {"seed": "0"}, {"seed": False}])
def test_another_recipe_is_another_model(store, recipe):
    assert get(store, Training()).key != get(store, Training(), recipe).key
    assert store.trained == 2


def test_other_data_other_sources_and_other_numerics_are_other_models(store, monkeypatch):
    keys = [get(store, Training()).key, get(store, Training(), data="e").key]
    with monkeypatch.context() as patch:
        patch.setattr(companion.store, "sources_digest", lambda names: "edited")
        keys.append(get(store, Training()).key)
    with monkeypatch.context() as patch:
        patch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
        keys.append(get(store, Training()).key)
    assert len(set(keys)) == store.trained == 4
    assert get(store, Training()).key == keys[0]


def test_the_modules_named_decide_the_key_through_what_they_reach(store):
    keys = {store.get_or_train({}, Training(), [name], "d").key for name in ("companion.errors", "companion.metrics")}
    assert len(keys) == 2


def test_the_order_of_a_recipe_and_dataclasses_do_not_matter(store):
    first = get(store, Training(), {"a": Settings(0.1, (1, 2)), "b": [True, None]})
    again = get(store, Training(), {"b": (True, None), "a": {"sizes": [1, 2], "rate": 0.1}})
    assert first.key == again.key and not again.fresh


@pytest.mark.parametrize(
    ("recipe", "place"),
    [
        ({"seed": torch.tensor(0)}, r"recipe\.seed is tensor\(0\), a Tensor"),
        ({"a": {"b": [1, {2, 3}]}}, r"recipe\.a\.b\[1\] is {2, 3}, a set"),
        ({"rate": float("nan")}, r"recipe\.rate is nan"),
        ({1: 2}, "recipe is {1: 2}"),
        ({"a": Settings}, r"recipe\.a is <class"),
    ],
)
def test_a_recipe_that_is_not_json_is_refused_by_place(store, recipe, place):
    with pytest.raises(CompanionError, match=place):
        get(store, Training(), recipe)


def test_tensors_come_back_with_the_same_bits(store):
    model = build_model("small_cnn", 3, 10, generator(0, "weights"))
    state = model.state_dict() | {
        "odd": torch.tensor([float("nan"), -0.0, float("inf"), 1e-45]),
        "half": torch.rand(7, generator=generator(0, "x")).bfloat16(),
        "bool": torch.tensor([True, False]),
        "scalar": torch.tensor(3),
        "view": torch.arange(12.0).view(3, 4).T,
    }
    for _ in range(2):
        found = store.get_or_train({}, lambda: (state, {}), MODULES, "d").state
        assert found.keys() == state.keys()
        for name, tensor in state.items():
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
            assert found[name].is_contiguous()
            assert raw(found[name]) == raw(tensor)


def test_a_training_that_fails_leaves_nothing(store):
    def fails():
        raise RuntimeError("no luck")

    with pytest.raises(RuntimeError, match="no luck"):
        get(store, fails)
    assert entries(store.root) == []
    assert get(store, Training()).fresh


def test_a_report_may_not_use_the_names_of_the_store(store):
    with pytest.raises(CompanionError, match="reports seconds"):
        get(store, lambda: ({"w": torch.zeros(1)}, {"seconds": 3}))


def flip_a_byte(folder):
    raw = bytearray((folder / WEIGHTS).read_bytes())
    raw[-1] ^= 1
    (folder / WEIGHTS).write_bytes(raw)


DAMAGES = {
    "a flipped bit": flip_a_byte,
    "a truncated file": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:40]),
    "no weights": lambda folder: (folder / WEIGHTS).unlink(),
    "no entry": lambda folder: (folder / ENTRY).unlink(),
    "half an entry": lambda folder: (folder / ENTRY).write_text((folder / ENTRY).read_text()[:30]),
    "another entry": lambda folder: (folder / ENTRY).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_refused_and_says_what_to_do(store, damage):
    [folder] = [store.root / get(store, Training()).key]
    DAMAGES[damage](folder)
    with pytest.raises(CompanionError, match=f"{folder} is damaged.*Delete that folder"):
        get(store, Training())


def test_a_store_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CompanionError, match=r"cannot write to the store.*COMPANION_STORE"):
        get(ModelStore(tmp_path / "file"), Training())


def test_a_full_disk_leaves_nothing_visible(store, monkeypatch):
    def full(tensors, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(companion.store, "save_file", full)
        with pytest.raises(CompanionError, match=r"No space left on device.*Free some space"):
            get(store, Training())
    assert entries(store.root) == list((store.root / ".partial").iterdir()) == []
    assert get(store, Training()).fresh


def train_slowly(root, log, start):
    def training():
        with open(log, "a") as file:
            file.write("trained\n")
        time.sleep(0.3)
        return {"weight": torch.full((3,), float(os.getpid()))}, {}

    start.wait()
    found = ModelStore(root).get_or_train({"seed": 0}, training, MODULES, "d")
    with open(log, "a") as file:
        file.write(f"got {found.state['weight'][0].item()}\n")


def test_two_processes_at_once_train_once(tmp_path):
    log, start = tmp_path / "log", FORK.Barrier(3)
    processes = [FORK.Process(target=train_slowly, args=(tmp_path / "store", log, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    lines = log.read_text().splitlines()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert lines.count("trained") == 1
    assert len(lines) == 4 and len(set(lines)) == 2


def large(index):
    return {"weight": torch.full((300_000,), float(index))}, {"index": index}


def fill(root, seed):
    store = ModelStore(root)
    for index in range(1000):
        get(store, partial(large, index), {"seed": seed, "index": index})


def test_killed_at_a_random_moment_nothing_half_written_can_be_seen(tmp_path):
    root, moments = tmp_path / "store", random.Random(0)
    seen = 0
    for trial in range(6):
        process = FORK.Process(target=fill, args=(root, trial))
        process.start()
        while not root.exists() or len(entries(root)) == seen:  # until it is writing
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.1))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        for folder in entries(root):
            entry = json.loads((folder / ENTRY).read_text())
            assert entry["key"] == folder.name
            assert (load_file(folder / WEIGHTS)["weight"] == entry["info"]["index"]).all()
        seen = len(entries(root))
        assert get(ModelStore(root), partial(large, trial), {"after": trial}).fresh
        seen += 1


def test_what_a_killed_process_left_is_swept_by_the_next(store):
    key = get(store, Training()).key
    (store.root / key).rename(store.root / ".partial" / f"{key}.left")
    assert get(store, Training()).fresh
    assert list((store.root / ".partial").iterdir()) == []


def test_the_default_store_follows_the_environment(tmp_path, monkeypatch):
    for name in ("COMPANION_STORE", "COMPANION_BUILD", "COMPANION_ROOT"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "checkout" / "notebooks" / "belt").mkdir(parents=True)
    (tmp_path / "checkout" / "_config.yml").touch()
    monkeypatch.chdir(tmp_path / "checkout" / "notebooks" / "belt")
    assert default_store().root == (tmp_path / "checkout" / "build" / "store").resolve()
    assert default_store() is default_store()
    monkeypatch.setenv("COMPANION_BUILD", str(tmp_path / "built"))
    assert default_store().root == tmp_path / "built" / "store"
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path / "models"))
    assert default_store().root == tmp_path / "models"


def test_outside_a_checkout_the_default_store_says_what_to_set(tmp_path, monkeypatch):
    for name in ("COMPANION_STORE", "COMPANION_BUILD", "COMPANION_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CompanionError, match="Set COMPANION_STORE"):
        default_store()
