"""The zoo: a recipe gives the same weights again, only the shipped file is used, and a key follows its digest."""

import hashlib
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo_toys import ToyRecipe, toy

from companion import sources
from companion.errors import CompanionError
from companion.multimodal import zoo
from companion.multimodal.base_models import SHIPPED, WEIGHTS, load_base, own_names
from companion.multimodal.initialising import initialised_from
from companion.press import cli
from companion.press.keys import lock_digest
from companion.press.project import Project
from companion.seeding import generator
from companion.store import ModelStore


@pytest.fixture
def place(tmp_path):
    (tmp_path / "digests").mkdir()
    return zoo.Place(tmp_path / "weights", tmp_path / "digests")


@pytest.fixture(autouse=True)
def settings_of_torch():
    """The commands compute as a chapter's run does; put back what other tests have."""
    mode, threads = torch.get_deterministic_debug_mode(), torch.get_num_threads()
    yield
    torch.set_deterministic_debug_mode(mode)
    torch.set_num_threads(threads)


@pytest.fixture
def built(place, tmp_path):
    """Return the toy with the digest of its shipped weights."""
    base = toy()
    card = zoo.build(base, ModelStore(tmp_path / "store"), place=place)
    return replace(base, sha256=card["weights"]["sha256"])


def test_weights_card_and_digest_are_written_together(built, place):
    card = zoo.read_card("toy-line", place)
    content = (place.folder("toy-line") / WEIGHTS).read_bytes()
    assert card["weights"] == {
        "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "parameters": 24, "dtype": "float32"
    }  # fmt: skip
    assert f'SHA256 = "{built.sha256}"' in place.digest("toy-line").read_text()
    assert card["recipe"] == {"seed": 0, "width": 4, "steps": 30, "rates": [0.1, 0.01]}
    assert card["report"]["loss"] < 1 and card["seconds"] > 0
    assert sorted(path.name for path in place.weights.iterdir()) == ["toy-line"]
    assert zoo.state_of(built, place) == []


def test_what_is_loaded_is_what_was_trained(built, place):
    trained, _ = built.train(built.recipe, torch.device("cpu"))
    network = load_base(built, folder=place.folder("toy-line"))
    assert not network.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in trained.state_dict().items())
    assert network.outer.weight is network.inner.weight
    assert list(load_file(place.folder("toy-line") / WEIGHTS)) == ["inner.bias", "inner.weight", "outer.bias"]


def test_the_shipped_weights_have_the_metrics_of_their_card(built, place):
    (line,) = zoo.evaluate_shipped(built, place)
    assert line.equal and line.close and line.metric == "error"


def test_metrics_in_percent_may_lie_as_many_points_apart_as_shares_hundredths():
    assert zoo.Comparison("accuracy", 0.1, 0.109, 0.01).close
    assert not zoo.Comparison("accuracy", 0.1, 0.111, 0.01).close
    assert zoo.Comparison("accuracy", 10.0, 10.9, 0.01, full=100.0).close
    assert not zoo.Comparison("accuracy", 10.0, 11.1, 0.01, full=100.0).close
    assert not zoo.Comparison("accuracy", 10.0, None, 0.01, full=100.0).close


def test_training_anew_gives_the_same_bits_and_another_recipe_does_not(built, place, tmp_path):
    same, (line,) = zoo.retrain(built, ModelStore(tmp_path / "empty"), place=place)
    assert same and line.equal
    shorter = replace(built, recipe=ToyRecipe(steps=2))
    same, (line,) = zoo.retrain(shorter, ModelStore(tmp_path / "empty"), place=place)
    assert not same and not line.close


def test_building_again_replaces_the_folder_and_keeps_no_rest(built, place, tmp_path):
    zoo.build(toy(recipe=ToyRecipe(steps=3)), ModelStore(tmp_path / "store"), place=place)
    assert sorted(path.name for path in place.weights.iterdir()) == ["toy-line"]
    assert zoo.state_of(built, place) == ["digest of the weights differs", "recipe changed"]


def test_half_precision_is_read_as_float32_and_evaluated_as_shipped(place, tmp_path):
    card = zoo.build(toy(half=True), ModelStore(tmp_path / "store"), place=place)
    half = toy(half=True, sha256=card["weights"]["sha256"])
    assert load_file(place.folder("toy-line") / WEIGHTS)["inner.weight"].dtype == torch.float16
    assert load_base(half, folder=place.folder("toy-line")).inner.weight.dtype == torch.float32
    assert zoo.evaluate_shipped(half, place)[0].equal


def test_other_weights_are_refused(built, place):
    path = place.folder("toy-line") / WEIGHTS
    state = load_file(path)
    state["inner.bias"][0] += 1e-3
    save_file(state, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(CompanionError, match=rf"sha256 {found}.*expects {built.sha256}.*companion zoo build toy-line"):
        load_base(built, folder=place.folder("toy-line"))
    assert zoo.state_of(built, place) == ["digest of the weights differs", "card of other weights"]


def test_missing_weights_are_named(built, place):
    (place.folder("toy-line") / WEIGHTS).unlink()
    with pytest.raises(CompanionError, match=rf"missing: expected .*{WEIGHTS} with the sha256 {built.sha256}"):
        load_base(built, folder=place.folder("toy-line"))
    assert zoo.state_of(built, place) == ["weights missing"]
    assert zoo.state_of(toy(), place) == ["not built"]


def test_weights_that_do_not_fit_the_recipe_are_named(built, place):
    wider = replace(built, recipe=ToyRecipe(width=5))
    with pytest.raises(CompanionError, match=r"3 of 3 tensors \(inner.bias: \(4,\), expected \(5,\)"):
        load_base(wider, folder=place.folder("toy-line"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda card: "{", "is damaged"),
        (lambda card: "[]", "name is None"),
        (lambda card: json.dumps(card | {"metrics": 3}), "metrics is 3, expected a value of the kind dict"),
        (lambda card: json.dumps(card | {"weights": {}}), "weights.sha256 is None"),
        (lambda card: json.dumps(card | {"name": "other"}), 'is the card of "other"'),
    ],
    ids=["no JSON", "no mapping", "wrong kind", "no digest", "another model"],
)
def test_a_damaged_card_is_named(built, place, damage, said):
    path = place.folder("toy-line") / zoo.CARD
    path.write_text(damage(json.loads(path.read_text())))
    with pytest.raises(CompanionError, match=f"{said}.*companion zoo build toy-line"):
        zoo.read_card("toy-line", place)
    path.unlink()
    with pytest.raises(CompanionError, match="card of toy-line is missing"):
        zoo.read_card("toy-line", place)


def test_too_large_a_zoo_is_not_written(place, tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "LIMIT", 100)
    with pytest.raises(CompanionError, match="expected at most 100 in all"):
        zoo.build(toy(), ModelStore(tmp_path / "store"), place=place)
    assert not place.weights.exists()


def test_a_training_may_not_reach_its_own_digest(place, tmp_path):
    circular = toy(name="clip-scenes", modules=("companion.multimodal.digests.clip_scenes",))
    with pytest.raises(CompanionError, match=r"reaches companion\.multimodal\.digests\.clip_scenes"):
        zoo.build(circular, ModelStore(tmp_path / "store"), place=place)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(CompanionError, match='unknown base model "clip": expected one of clip-scenes, diffusion'):
        zoo.find("clip")


def test_a_changed_digest_changes_the_key_of_what_reaches_it(tmp_path, monkeypatch):
    """A run's key holds the digest of each module that it reaches, and the digest of the weights stands in one."""
    package = tmp_path / "zoo_keys"
    for path, text in {
        "__init__.py": "",
        "base.py": "from zoo_keys.digests import mine\nSHA256 = mine.SHA256\n",
        "digests/__init__.py": "",
        "digests/mine.py": zoo._digest_module("mine", "a" * 64),
        "digests/other.py": zoo._digest_module("other", "a" * 64),
    }.items():
        (package / path).parent.mkdir(parents=True, exist_ok=True)
        (package / path).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)

    def digest():
        sources.forget()
        return sources.sources_digest(["zoo_keys.base"], "zoo_keys")

    before = digest()
    (package / "digests/other.py").write_text(zoo._digest_module("other", "b" * 64))
    assert digest() == before
    (package / "digests/mine.py").write_text(zoo._digest_module("mine", "b" * 64))
    assert digest() != before


@pytest.mark.parametrize("name", zoo.BASES)
def test_a_base_model_reaches_its_digest_and_its_training_does_not(name):
    module = zoo.BASES[name].split(":")[0]
    digest = f"companion.multimodal.digests.{name.replace('-', '_')}"
    assert digest in sources.reach([module])
    assert "companion.multimodal.zoo" not in sources.reach([module])
    base = zoo.find(name)
    assert base.name == name and digest not in sources.reach(base.modules)


@pytest.mark.parametrize("name", zoo.BASES)
def test_what_ships_has_the_metrics_of_its_card(name):
    base = zoo.find(name)
    assert not {*zoo.state_of(base)} - {"sources changed"}
    compared = zoo.evaluate_shipped(base)
    assert compared and all(line.close for line in compared), compared


def test_the_zoo_lists_and_verifies_by_command(capsys):
    assert cli.main(["zoo", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in zoo.BASES) and "of at most 20 MB ship" in said
    assert cli.main(["zoo", "verify", "nonsense"]) == 2
    assert 'unknown base model "nonsense"' in capsys.readouterr().err


@pytest.fixture
def toy_zoo(place, tmp_path, monkeypatch):
    """Let the commands know the toy alone, and its digest once it is written."""

    def find(name):
        digest = place.digest(name)
        return toy(sha256=digest.read_text().split('"')[-2] if digest.exists() else "")

    monkeypatch.setattr(zoo, "BASES", {"toy-line": "zoo_toys:toy"})
    monkeypatch.setattr(zoo, "find", find)
    monkeypatch.setattr(zoo, "Place", lambda: place)
    monkeypatch.setenv("COMPANION_STORE", str(tmp_path / "store"))


def test_the_commands_build_list_and_verify(toy_zoo, place, capsys):
    def say(*words):
        status = cli.main(["zoo", *words])
        return status, capsys.readouterr().out

    assert "not built" in say("list")[1]
    status, said = say("verify")
    assert status == 1 and "toy-line: WRONG" in said and "the weights of toy-line are missing" in said
    status, said = say("build", "toy-line")
    assert status == 0 and "24 parameters" in said and str(place.folder("toy-line")) in said
    assert "current" in say("list")[1]
    status, said = say("verify", "--retrain")
    assert status == 0 and "toy-line: ok" in said and "the same weights, bit for bit" in said
    assert said.count(": equal") == 2
    card = place.folder("toy-line") / zoo.CARD
    settings = json.loads(card.read_text())
    card.write_text(json.dumps(settings | {"metrics": {"error": 0.5}}))
    status, said = say("verify", "toy-line")
    assert status == 1 and "card 0.5: DIFFERS" in said
    card.write_text(json.dumps(settings | {"sources": "0" * 64}))
    status, said = say("verify", "toy-line")
    assert status == 0 and "sources changed: modules that the training reaches were edited" in said
    card.write_text(json.dumps(settings | {"recipe": {}}))
    status, said = say("verify", "toy-line")
    assert status == 1 and "recipe changed: build it anew" in said
    (place.folder("toy-line") / WEIGHTS).write_bytes(b"other")
    status, said = say("verify", "toy-line")
    assert status == 1 and "these are not the weights of toy-line" in said
    assert "digest of the weights differs" in say("list")[1]


def test_what_ships_is_small_and_read_from_safetensors_only():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert {path.name for path in files} <= {WEIGHTS, zoo.CARD}
    assert sum(path.stat().st_size for path in files) <= zoo.LIMIT


def test_packaging_weights_leaves_the_lock_alone(tmp_path):
    """Data of the package is no dependency: the lock's digest, which is in every key, has nothing of pyproject.toml."""
    project = Project.find()
    settings = tomllib.loads((project.root / "pyproject.toml").read_text())
    assert "**/*.safetensors" in settings["tool"]["setuptools"]["package-data"]["companion"]
    alone = shutil.copy(project.lock, tmp_path)
    assert lock_digest(Path(alone)) == lock_digest(project.lock)


def test_a_generator_decides_initial_weights_and_the_global_state_stays():
    before = torch.random.get_rng_state()
    stream = generator(0, "weights")
    drawn = []
    for source in (stream, stream, generator(0, "weights")):
        with initialised_from(source):
            drawn.append(torch.nn.Linear(3, 3).weight)
    assert torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[1])
    with pytest.raises(KeyError), initialised_from(stream):
        raise KeyError
    assert torch.equal(torch.random.get_rng_state(), before)


def test_tied_tensors_are_named_once():
    network = toy().construct(ToyRecipe(), generator(0))
    assert own_names(network) == ["inner.weight", "inner.bias", "outer.bias"]
