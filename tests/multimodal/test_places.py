"""A parameter's text becomes a folder or a name on the hub."""

import pytest

from companion.errors import CompanionError
from companion.multimodal.clip_worlds import world_of
from companion.multimodal.places import place_of


def test_a_folder_that_exists_wins_over_a_name(tmp_path, monkeypatch):
    (tmp_path / "owner/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert str(place_of("owner/model").folder) == "owner/model" and place_of("owner/model").name is None
    assert str(place_of(str(tmp_path)).folder) == str(tmp_path)


@pytest.mark.parametrize(
    "text, name, revision", [("owner/model", "owner/model", None), ("owner/model@v1", "owner/model", "v1")]
)
def test_a_name_may_have_a_revision_and_is_downloaded(text, name, revision):
    found = place_of(text)
    assert (found.name, found.revision, found.network, found.folder) == (name, revision, True, None)


@pytest.mark.parametrize("text", ["clip", "/nowhere/clip", "./clip", "some/deep/folder"])
def test_what_is_no_name_is_a_folder_and_its_absence_is_named(text):
    assert place_of(text).name is None
    with pytest.raises(CompanionError, match=r"clip|folder") as error:
        world_of(text)
    assert text.removeprefix("./") in str(error.value) and "missing" in str(error.value)
