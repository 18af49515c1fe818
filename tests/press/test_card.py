"""Cards: a valid one is read whole, and every error names the file, the field, the value and what was expected."""

import copy

import pytest
import yaml
from miniature import card as toy_card

from companion.errors import CompanionError
from companion.press.card import load_card, read_card
from companion.press.project import Project


def read(content, slug="toy"):
    text = content if isinstance(content, bytes) else yaml.safe_dump(content).encode()
    return read_card(text, "notebooks/toy/paper.yml", slug)


def problem(content, slug="toy") -> str:
    with pytest.raises(CompanionError) as caught:
        read(content, slug)
    assert str(caught.value).startswith("notebooks/toy/paper.yml")
    return str(caught.value)


def changed(path: str, value) -> dict:
    """Return a toy card in which the field at a path such as "profiles.laptop.seeds" is `value`, or left out."""
    content = copy.deepcopy(toy_card("toy"))
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = content
    for part in parents:
        place = place[part]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


def test_a_valid_card_is_read_whole():
    card = read(toy_card("toy"))
    assert card.profiles["laptop"].seeds == (0,)
    assert card.profiles["laptop"].recorded_seeds == (1,)
    assert card.profiles["smoke"].parameters == {"size": 2}
    assert card.claims[0].tests[0].expression == "toy.double > 1"
    assert card.claims[0].tolerance is None
    assert card.tolerances == ()


def test_tolerances_keep_their_order():
    content = b'"a.*": {absolute: 1}\n"*": {relative: 0.5}\n"b": {}\n'
    card = read(toy_card("toy") | {"tolerances": {}})
    assert card.tolerances == ()
    text = yaml.safe_dump(toy_card("toy")).encode() + b"tolerances:\n  " + content.replace(b"\n", b"\n  ")
    found = [(tolerance.pattern, tolerance.absolute, tolerance.relative) for tolerance in read(text).tolerances]
    assert found == [("a.*", 1, 0), ("*", 0, 0.5), ("b", 0, 0)]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("title", None, ["title: is missing", "the chapter's title"]),
        ("part", "VI", ["part: found 'VI'", "I, II, III, IV or V"]),
        ("slug", "other", ["slug: found 'other'", "'toy'", "folder"]),
        ("profiles.laptop.seeds", [-1], ["profiles.laptop.seeds[0]: found -1", "at least 0"]),
        ("profiles.laptop.seeds", [1, 1], ["profiles.laptop.seeds: found [1, 1]", "different"]),
        ("profiles.laptop.seeds", "0", ["profiles.laptop.seeds: found '0'", "a list"]),
        ("profiles.laptop.recorded_seeds", [0], ["profiles.laptop.recorded_seeds: [0]", "other seeds"]),
        ("profiles.laptop.cell_timout", 5, ["cell_timout: unknown field", "did you mean 'cell_timeout'"]),
        ("profiles.laptop.memory_mb", "much", ["profiles.laptop.memory_mb: found 'much'", "megabytes"]),
        ("profiles.laptop.parameters", {"seed": 1}, ["profiles.laptop.parameters", "'seed'", "the press sets"]),
        ("profiles", {}, ["profiles: found {}", "at least one"]),
        ("claims.0.tests", [], ["claims[0]", "why_not"]),
        ("claims.0.why_not", "no", ["claims[0]", "either tests or"]),
        ("claims.0.tests.0.expression", None, ["claims[0].tests[0].expression: is missing"]),
        ("claims.0.paper_value", {"text": "9", "evidence": "M"}, ["paper_value.evidence: found 'M'", "source code"]),
        ("bibliography.arxiv", 2312.049, ["bibliography.arxiv: found 2312.049", "quoted"]),
        ("artifacts", [{"id": "a", "kind": "figure", "title": "A", "where": "p"}], ["artifacts[0]", "by or why_not"]),
        ("tolerances", {"*": {"absolut": 1}}, ["tolerances.*.absolut: unknown field", "absolute"]),
    ],
)
def test_each_error_names_field_value_and_expectation(path, value, said):
    message = problem(changed(path, value))
    for words in said:
        assert words in message


def test_all_problems_are_reported_at_once():
    content = changed("part", "VI")
    content["order"] = 0
    assert {"part", "order"} <= {line.split(":")[0].strip() for line in problem(content).splitlines()[1:]}


def test_repeated_ids_are_refused():
    content = toy_card("toy")
    content["claims"] *= 2
    assert "claims[1].id: 'double' stands twice" in problem(content)


def test_unreadable_yaml_gives_line_and_column():
    assert "line 2, column 4" in problem(b"a: [1,\nb: }")
    assert "line 2, column 1" in problem(b"slug: a\nslug: b\n")
    assert "UTF-8" in problem(b"slug: \xff\n")
    assert "found None" in problem(b"")


def test_yaml_cannot_run_code():
    assert "python/object" in problem(b"slug: !!python/object/apply:os.getcwd []\n")


def test_unknown_chapter_and_profile_suggest_a_name(tmp_path):
    (tmp_path / "notebooks" / "toy").mkdir(parents=True)
    (tmp_path / "notebooks" / "toy" / "paper.yml").write_text(yaml.safe_dump(toy_card("toy")))
    with pytest.raises(CompanionError, match=r"unknown chapter 'tpy': expected one of toy \(did you mean 'toy'\?\)"):
        load_card(Project(tmp_path), "tpy")
    with pytest.raises(CompanionError, match=r"unknown profile 'lap'.*did you mean 'laptop'"):
        load_card(Project(tmp_path), "toy").profile("lap")
