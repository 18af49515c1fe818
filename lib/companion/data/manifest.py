"""Manifests: what each data set is, where it comes from and which bytes it consists of (data_manifests/<name>.yml)."""

import difflib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path, PurePosixPath

import jsonschema
import yaml

from companion.errors import CompanionError


@dataclass(frozen=True)
class DataFile:
    """One file, or with `pattern` all files of a folder that match it.

    path: relative to the data folder; size: bytes (of all files together for a folder); sha256: 64 hexadecimal digits,
    None where `verified` is false. The sha256 of a folder is that of its listing: lines "<sha256>  <name>", sorted by
    name, as `sha256sum` prints them.
    """

    path: str
    size: int | None = None
    sha256: str | None = None
    urls: tuple[str, ...] = ()
    verified: bool = True
    evidence: str = ""
    pattern: str | None = None
    count: int | None = None


@dataclass(frozen=True)
class Layout:
    """One way in which the files of a data set can lie on a disk.

    archive: a tar file that holds all `files`, where the source offers one; package: the installed Python package
    whose folder holds the files (None: the data folder or the cache).
    """

    name: str
    origin: str
    evidence: str
    files: Mapping[str, DataFile]
    archive: DataFile | None = None
    package: str | None = None

    @property
    def downloads(self) -> dict[str, DataFile]:
        """What must be downloaded to get the layout, by key; empty where it cannot be downloaded."""
        if self.archive is not None:
            return {"archive": self.archive}
        return dict(self.files) if all(file.urls for file in self.files.values()) else {}

    @property
    def size(self) -> int:
        """Bytes of all files whose size is known."""
        return sum(file.size or 0 for file in self.files.values())


@dataclass(frozen=True)
class Split:
    """A named protocol: either files that a loader reads, or a share of another split (see `companion.data.splits`)."""

    files: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    images: int | None = None
    of: str | None = None
    share: tuple[float, float] = (0.0, 1.0)
    seed: int = 0
    block: int = 1


@dataclass(frozen=True)
class Manifest:
    """One data set as its manifest describes it."""

    name: str
    title: str
    kind: str
    description: str
    licence: Mapping[str, str]
    citation: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    loader: str | None
    layouts: tuple[Layout, ...] = ()
    homepage: str = ""
    chapter: str = ""
    source: Path = field(default=Path(), compare=False)


def manifests_folder() -> Path:
    """Return data_manifests/ of the checkout around COMPANION_ROOT or the working directory, else of this library."""
    start = Path(os.environ.get("COMPANION_ROOT") or Path.cwd()).resolve()
    for folder in [start, *start.parents, Path(__file__).resolve().parents[3]]:
        if (folder / "data_manifests").is_dir():
            return folder / "data_manifests"
    raise CompanionError(
        f"no folder data_manifests/ at or above {start}: run the command inside the checkout, "
        "or set COMPANION_ROOT to it."
    )


def names() -> list[str]:
    """Return the names of all data sets that have a manifest, sorted."""
    return sorted(path.stem for path in manifests_folder().glob("*.yml"))


def load_manifest(name: str) -> Manifest:
    """Return the validated manifest of the data set `name`.

    Raises CompanionError for a name without a manifest and for a manifest that breaks the schema.
    """
    path = manifests_folder() / f"{name}.yml"
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise CompanionError(f"unknown data set {name!r}: {path} does not exist.{hint} Known: {', '.join(names())}.")
    return read_manifest(path)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest in the file `path`; every error names the file and the field."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeyLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CompanionError(f"{path}: cannot be read as YAML: {error}") from None
    problems = [
        f"{'.'.join(map(str, error.absolute_path)) or 'manifest'}: {error.message}"
        for error in sorted(_validator().iter_errors(content), key=lambda error: list(map(str, error.absolute_path)))
    ]
    problems = problems or list(_problems(content, path))
    if problems:
        raise CompanionError(f"{path} is not a valid data manifest:\n  " + "\n  ".join(problems))
    return _manifest(content, path)


def digest(manifest: Manifest, trusted: Mapping[str, str] | None = None) -> str:
    """Return the sha256 over everything in `manifest` that decides the bits of the data.

    That is sizes and digests of files, splits, classes and loader; prose, addresses and comments do not count.
    trusted: digests that were recorded at first use, by "<layout>/<key>", for files that the manifest does not pin.
    """
    trusted = trusted or {}
    files = {
        f"{layout.name}/{key}": [file.size, file.sha256 or trusted.get(f"{layout.name}/{key}"), file.pattern]
        for layout in manifest.layouts
        for key, file in {**layout.files, **layout.downloads}.items()
    }
    splits = {name: {k: v for k, v in vars(split).items() if k != "images"} for name, split in manifest.splits.items()}
    decisive = {"loader": manifest.loader, "classes": manifest.classes, "splits": splits, "files": files}
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _UniqueKeyLoader(yaml.SafeLoader):
    """The safe loader, which additionally refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(Path(__file__).with_name("manifest_schema.json").read_text(encoding="utf-8"))
    return jsonschema.Draft202012Validator(schema)


def _problems(content: dict, path: Path) -> Iterator[str]:
    """Yield what the schema cannot say: rules that join several fields."""
    if content["name"] != path.stem:
        yield f"name: is {content['name']!r}, but the file is called {path.name}"
    if (content["kind"] == "generated") != ("layouts" not in content):
        yield f"layouts: a generated data set has none, every other at least one; kind is {content['kind']!r}"
    if content["loader"] is None and "chapter" not in content:
        yield "chapter: missing; a data set without a loader names the chapter that brings it"
    layouts = content.get("layouts", [])
    for name, split in content["splits"].items():
        yield from _split_problems(name, split, content["splits"], layouts, content["kind"])
    for index, layout in enumerate(layouts):
        entries = {f"files.{key}": entry for key, entry in layout["files"].items()}
        if "archive" in layout:
            entries["archive"] = layout["archive"]
            if "url" not in layout["archive"]:
                yield f"layouts.{index}.archive.url: missing"
        for key, entry in entries.items():
            yield from _file_problems(f"layouts.{index}.{key}", entry)


def _split_problems(name: str, split: dict, splits: dict, layouts: list[dict], kind: str) -> Iterator[str]:
    where = f"splits.{name}"
    if "of" in split:
        seen, base = {name}, split["of"]
        while base in splits and base not in seen:
            seen.add(base)
            base = splits[base].get("of")
        if base is not None:
            yield f"{where}.of: {split['of']!r} does not lead to a split with data; splits: {', '.join(sorted(splits))}"
        low, high = split.get("share", [0, 1])
        if low >= high:
            yield f"{where}.share: [{low}, {high}] is empty; the first number must be smaller"
        if "files" in split or "members" in split:
            yield f"{where}.files: stands beside `of`; a split has either files or is a share of another"
    elif kind != "generated" and "files" not in split:
        yield f"{where}.files: missing; a split has either files or is a share of another (`of`)"
    for key in split.get("files", []):
        for index, layout in enumerate(layouts):
            if key not in layout["files"]:
                yield f"{where}.files: {key!r} is not in layouts.{index}.files: {', '.join(layout['files'])}"


def _file_problems(where: str, entry: dict) -> Iterator[str]:
    pure = PurePosixPath(entry["path"])
    if pure.is_absolute() or ".." in pure.parts or "\\" in entry["path"]:
        yield f"{where}.path: {entry['path']!r} must be relative, with / between folders and without .."
    if entry.get("verified", True):
        for key in ("sha256", "size"):
            if key not in entry:
                yield f"{where}.{key}: missing; give it, or say `verified: false` where no published list confirms it"
    elif "sha256" in entry:
        yield f"{where}.sha256: stands beside `verified: false`; leave it out until a published list confirms it"
    elif "evidence" not in entry:
        yield f"{where}.evidence: missing; say why the digest is not verified"
    if ("pattern" in entry) != ("count" in entry):
        yield f"{where}.count: a folder has both `pattern` and `count`, a file neither"


def _manifest(content: dict, path: Path) -> Manifest:
    def file(entry: dict) -> DataFile:
        return DataFile(urls=tuple(entry.pop("url", ())), **entry)

    def layout(entry: dict) -> Layout:
        files = {key: file(value) for key, value in entry.pop("files").items()}
        archive = file(entry.pop("archive")) if "archive" in entry else None
        return Layout(files=files, archive=archive, **entry)

    def split(entry: dict) -> Split:
        entry.pop("note", None)
        return Split(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})

    content["classes"] = tuple(content["classes"])
    content["splits"] = {name: split(entry) for name, entry in content["splits"].items()}
    content["layouts"] = tuple(layout(entry) for entry in content.pop("layouts", []))
    return Manifest(source=path, **content)
