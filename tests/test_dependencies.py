"""pyproject.toml, requirements.lock and environment.yml say the same."""

import re
from pathlib import Path

import pytest
import yaml
from packaging.utils import canonicalize_name

from companion.press.lock import declared, environment_text, locked

ROOT = Path(__file__).parents[1]
FIXED_BY_THE_USER = (
    "jupyter-book jupytext papermill torch torchvision timm transformers matplotlib seaborn nbval pytest"
)


def test_every_declared_dependency_is_locked_at_a_version_it_allows():
    for python in ("3.11", "3.12", "3.13"):
        pins = locked(ROOT / "requirements.lock", python)
        for requirement in declared(ROOT / "pyproject.toml"):
            assert canonicalize_name(requirement.name) in pins, requirement.name
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_environment_yml_is_what_the_lock_gives():
    text = (ROOT / "environment.yml").read_text()
    assert text == environment_text(ROOT / "pyproject.toml", ROOT / "requirements.lock"), "run `make lock`"
    pip = yaml.safe_load(text)["dependencies"][-1]["pip"]
    assert len(pip) == len(declared(ROOT / "pyproject.toml")) + 1


def test_every_locked_version_carries_a_hash_and_no_address():
    text = (ROOT / "requirements.lock").read_text()
    entries = re.split(r"^(?=[A-Za-z0-9])", text, flags=re.M)[1:]
    assert len(entries) > 100
    assert [e.split("\n")[0] for e in entries if "--hash=sha256:" not in e] == []
    assert "://" not in text


@pytest.mark.parametrize("name", FIXED_BY_THE_USER.split())
def test_what_the_user_fixed_is_declared(name):
    assert name in {canonicalize_name(r.name) for r in declared(ROOT / "pyproject.toml")}


def test_torch_and_torchvision_are_a_matched_pair():
    """torchvision 0.N goes with torch 2.(N-15) of the same build; a mismatch fails only at import."""
    pins = locked(ROOT / "requirements.lock")
    assert int(pins["torchvision"].split(".")[1]) - int(pins["torch"].split(".")[1]) == 15
