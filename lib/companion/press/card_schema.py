"""The rule book of paper.yml, and what is said where a card breaks it.

Every part of `SCHEMA` carries a `description` that completes the sentence "expected ...", so that an error can name the
field, the value found and what belongs there.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

EVIDENCE = {
    "C": "read in the official source code",
    "A": "read in the abstract, on the first page, in the publisher's record or on the authors' page",
    "T": "reported by a third party",
    "D": "derived or numerically checked",
    "P": "read off a published plot",
}
"""How a value of the paper is known. What is only remembered or reconstructed is never printed, so it has no letter."""


def _text(expected: str, **more) -> dict:
    return {"type": "string", "minLength": 1, "description": expected, **more}


def _object(expected: str, required: Mapping[str, dict], optional: Mapping[str, dict] | None = None) -> dict:
    return {
        "type": "object",
        "description": expected,
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def _list(expected: str, items: dict, **more) -> dict:
    return {"type": "array", "description": expected, "items": items, **more}


_ID = {"pattern": r"^[a-z][a-z0-9-]*$"}
_SEED = {"type": "integer", "minimum": 0, "description": "a whole number of at least 0"}
_TOLERANCE = {"type": "number", "minimum": 0, "description": "a number of at least 0"}

_PROFILE = _object(
    "a mapping with seeds, data, cell_timeout, memory_mb and parameters",
    {
        "seeds": _list("a list of different seeds, at least one", _SEED, minItems=1, uniqueItems=True),
        "data": _list("a list of names of data manifests", _text("the name of a data manifest"), uniqueItems=True),
        "cell_timeout": {"type": "integer", "minimum": 1, "description": "a whole number of seconds, at least 1"},
        "memory_mb": {"type": "integer", "minimum": 100, "description": "a whole number of megabytes, at least 100"},
        "parameters": {
            "type": "object",
            "description": "a mapping from names of the parameters cell to values",
            "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$", "not": {"enum": ["profile", "seed"]}},
        },
    },
    {"recorded_seeds": _list("a list of different seeds, none of them in seeds", _SEED, uniqueItems=True)},
)

_CLAIM = _object(
    "a mapping with id, statement, where, paper_value and tests",
    {
        "id": _text("lower-case words joined by hyphens", **_ID),
        "statement": _text("the claim in our own words"),
        "where": _text("the place in the paper"),
        "paper_value": {
            "description": "null, or a mapping with text and evidence",
            "oneOf": [
                {"type": "null"},
                _object(
                    "a mapping with text and evidence",
                    {
                        "text": _text("what the paper reports"),
                        "evidence": {
                            "enum": list(EVIDENCE),
                            "description": "; ".join(f"{letter} ({meaning})" for letter, meaning in EVIDENCE.items()),
                        },
                    },
                ),
            ],
        },
        "tests": _list(
            "a list of parts, each with name and expression (empty only beside why_not)",
            _object(
                "a mapping with name and expression",
                {"name": _text("a short name"), "expression": _text("a comparison of metric ids")},
            ),
        ),
    },
    {
        "tolerance": {"type": "number", "description": "a number, which expressions know as `tolerance`"},
        "minimum_seeds": {"type": "integer", "minimum": 1, "description": "a whole number of at least 1"},
        "why_not": _text("why the claim is not tested"),
    },
)

_ARTIFACT = _object(
    "a mapping with id, kind, title, where and either by or why_not",
    {
        "id": _text("lower-case words joined by hyphens", **_ID),
        "kind": {"enum": ["figure", "table"], "description": "figure or table"},
        "title": _text("a title"),
        "where": _text("the place in the paper"),
    },
    {
        "by": _text("the name of a figure or table that the chapter records"),
        "why_not": _text("why it is not regenerated"),
    },
)

_BIBLIOGRAPHY = _object(
    "a mapping with key, title, authors, venue and year",
    {
        "key": _text("a key of book/references.bib"),
        "title": _text("the paper's title"),
        "authors": _list("a list of names, at least one", _text("a name"), minItems=1),
        "venue": _text("the conference or journal"),
        "year": {"type": "integer", "minimum": 1950, "maximum": 2100, "description": "a year"},
    },
    {
        "doi": _text("a DOI, as quoted text", pattern=r"^10\."),
        "arxiv": _text('an arXiv number, as quoted text: "2312.04902"', pattern=r"^\d{4}\.\d{4,5}$"),
        "url": _text("an address", pattern="^https://"),
        "code": {
            "description": "null, or a mapping with repository (owner/name) and licence",
            "oneOf": [
                {"type": "null"},
                _object(
                    "a mapping with repository (owner/name) and licence",
                    {"repository": _text("owner/name"), "licence": _text("the licence, or 'none'")},
                ),
            ],
        },
    },
)

SCHEMA = _object(
    "a mapping with slug, part, order, title, bibliography, summary, profiles, claims, artifacts and deviations",
    {
        "slug": _text("the name of its folder under notebooks/", **_ID),
        "part": {"enum": ["I", "II", "III", "IV", "V"], "description": "a part of the book: I, II, III, IV or V"},
        "order": {"type": "integer", "minimum": 1, "description": "the place in its part, a whole number from 1"},
        "title": _text("the chapter's title"),
        "bibliography": _BIBLIOGRAPHY,
        "summary": _text("a paragraph in our own words"),
        "profiles": {
            "type": "object",
            "description": "a mapping from names of profiles (lower-case) to profiles, at least one",
            "minProperties": 1,
            "propertyNames": {"pattern": "^[a-z][a-z0-9_]*$"},
            "additionalProperties": _PROFILE,
        },
        "claims": _list("a list of claims", _CLAIM),
        "artifacts": _list("a list of the paper's tables and figures", _ARTIFACT),
        "deviations": _list(
            "a list of deviations",
            _object(
                "a mapping with topic, text and reason",
                {"topic": _text("a topic"), "text": _text("what differs"), "reason": _text("why it differs")},
            ),
        ),
    },
    {
        "tolerances": {
            "type": "object",
            "description": "a mapping from patterns of metric ids to {absolute, relative}",
            "additionalProperties": _object(
                "a mapping with absolute, relative or both", {}, {"absolute": _TOLERANCE, "relative": _TOLERANCE}
            ),
        }
    },
)


def _field(path: Iterable[Any]) -> str:
    """Return `profiles.laptop.seeds[1]` for a path into the card."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "the whole file"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def schema_problems(found: Any) -> list[str]:
    """Return what is wrong with the content of a card, one sentence a field; empty if nothing is."""
    from jsonschema import Draft202012Validator  # kept out of the kernels, which read no card

    errors = sorted(Draft202012Validator(SCHEMA).iter_errors(found), key=lambda error: list(map(str, error.path)))
    return [line for error in errors for line in _sentences(error)]


def _sentences(error) -> list[str]:
    """Say in a line or two what one error of jsonschema means."""
    field, schema = _field(error.absolute_path), error.schema
    if error.validator == "required":
        missing = [name for name in schema["required"] if name not in error.instance]
        name = next(name for name in missing if repr(name) in error.message)
        expected = schema["properties"][name].get("description", "a value")
        return [f"{_field([*error.absolute_path, name])}: is missing; expected {expected}"]
    if error.validator == "additionalProperties":
        known = list(schema["properties"])
        unknown = [name for name in error.instance if name not in known]
        fields = [(name, _field([*error.absolute_path, name])) for name in unknown]
        return [f"{path}: unknown field; expected one of {', '.join(known)}{near(n, known)}" for n, path in fields]
    if error.validator == "oneOf" and isinstance(error.instance, dict):  # the object branch says what is wrong in it
        branch = [inner for inner in error.context if inner.schema_path[0] == 1]
        return [line for inner in branch for line in _sentences(inner)]
    if "propertyNames" in error.absolute_schema_path:
        return [
            f"{field}: the name {_shown(error.instance)} is not allowed; expected lower-case letters, digits and _"
            + (", and neither profile nor seed, which the press sets" if field.endswith("parameters") else "")
        ]
    return [f"{field}: found {_shown(error.instance)}; expected {schema.get('description', error.message)}"]


def near(name: str, names: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the name nearest to a mistyped one, or nothing."""
    found = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""
