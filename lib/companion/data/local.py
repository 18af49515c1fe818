"""Finds the files of a data set on this machine and checks that they are the right ones.

Order: the folder COMPANION_DATA, then the cache (COMPANION_CACHE, else the platform's cache folder). A file is hashed
once; the result is remembered in the cache under its path, size and modification time.
"""

import hashlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pooch

from companion.data.manifest import DataFile, Layout, Manifest
from companion.errors import CompanionError


@dataclass(frozen=True)
class Found:
    """A layout whose files lie under `root`; `place` is the word for that root in messages."""

    layout: Layout
    root: Path
    place: str

    def path(self, key: str) -> Path:
        """Return where the file `key` lies."""
        return self.root / self.layout.files[key].path


def cache_folder() -> Path:
    """Return the folder for everything that is downloaded or remembered: COMPANION_CACHE, else the platform's."""
    return Path(os.environ.get("COMPANION_CACHE") or pooch.os_cache("companion")).expanduser()


def cached_data() -> Path:
    """Return the folder of downloaded data; it has the same structure as COMPANION_DATA."""
    return cache_folder() / "data"


def roots(layout: Layout) -> list[tuple[str, Path]]:
    """Return the folders in which to look for `layout`, each with the word that messages use for it."""
    if layout.package is not None:
        spec = importlib.util.find_spec(layout.package)
        return [(layout.package, Path(spec.origin).parent)] if spec and spec.origin else []
    places = [("cache", cached_data())]
    if given := os.environ.get("COMPANION_DATA"):
        folder = Path(given).expanduser()
        if not folder.is_dir():
            raise CompanionError(
                f"COMPANION_DATA is {given!r}, which is not a folder: correct it, or unset it to use {cached_data()}."
            )
        places.insert(0, ("COMPANION_DATA", folder))
    return places


def candidates(manifest: Manifest) -> Iterator[Found]:
    """Yield every place where the data set may lie, in the order of search."""
    places = [(layout, *place) for layout in manifest.layouts for place in roots(layout)]
    for layout, place, root in sorted(places, key=lambda candidate: candidate[1] == "cache"):
        yield Found(layout, root, place)


def present(found: Found) -> list[str]:
    """Return the keys of the files of `found` that exist (checked or not)."""
    return [key for key in found.layout.files if found.path(key).exists()]


def locate(manifest: Manifest, keys: Iterable[str] | None = None) -> Found | None:
    """Return the first place that holds all files `keys` (default: every file) of one layout, else None."""
    for found in candidates(manifest):
        if set(found.layout.files if keys is None else keys) <= set(present(found)):
            return found
    return None


def absence(manifest: Manifest, keys: Iterable[str] | None = None) -> str:
    """Say where the data set was looked for, what is missing there and how to get it."""
    lines = [] if os.environ.get("COMPANION_DATA") else ["COMPANION_DATA is not set"]
    for found in candidates(manifest):
        missing = [k for k in (found.layout.files if keys is None else keys) if not found.path(k).exists()]
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        lines.append(f"{found.place} lacks {found.path(missing[0])}{more} (layout {found.layout.name})")
    downloadable = [layout for layout in manifest.layouts if layout.downloads]
    if downloadable:
        size = sum(file.size or 0 for file in downloadable[0].downloads.values()) / 1e6
        remedy = (
            f"run `companion data fetch {manifest.name}` ({size:,.0f} MB), or set COMPANION_DATA to a folder with it"
        )
    elif manifest.layouts[0].package is not None:
        remedy = f"it comes with {manifest.layouts[0].origin}: install the versions of requirements.lock"
    else:
        remedy = f"it has no public download ({manifest.layouts[0].origin}); set COMPANION_DATA to a folder with it"
    return "\n  ".join([*lines, remedy])


def check(manifest: Manifest, found: Found, key: str, *, again: bool = False) -> None:
    """Raise CompanionError unless the file `key` has the size and sha256 that the manifest, or a first use, recorded.

    again: hash the file even if an earlier check is remembered.
    """
    file = found.layout.files[key]
    expected = file.sha256 or trusted_digest(manifest, found.layout, key)
    if expected is None:
        raise CompanionError(
            f"{found.path(key)}: no verified sha256 is known ({file.evidence or 'see ' + str(manifest.source)}). "
            f"To accept this copy and record its digest: companion data fetch {manifest.name} --trust-on-first-use"
        )
    problem = compare(file, found.path(key), expected, again=again)
    if problem:
        remedy = f"Delete it and lay it out again, or run `companion data fetch {manifest.name}`."
        if found.layout.package is not None:
            remedy = "Install the versions of requirements.lock."
        raise CompanionError(f"{found.path(key)} is not the file that {manifest.source} describes: {problem}. {remedy}")


def compare(file: DataFile, path: Path, expected: str, *, again: bool = False) -> str:
    """Return how `path` differs from `file` with the sha256 `expected`; the empty string where it does not."""
    members = _members(file, path)
    size = sum(member.stat().st_size for member in members)
    if file.count is not None and len(members) != file.count:
        return f"{len(members)} files match {file.pattern}, expected {file.count}"
    if file.size is not None and size != file.size:
        return f"size {size:,} bytes, expected {file.size:,}"
    actual = content_digest(file, path, again=again)
    return "" if actual == expected else f"sha256 {actual}, expected {expected}"


def content_digest(file: DataFile, path: Path, *, again: bool = False) -> str:
    """Return the sha256 of `path` (of its listing for a folder), from memory where the file has not changed since."""
    members = _members(file, path)
    states = [(member.name, member.stat().st_size, member.stat().st_mtime_ns) for member in members]
    signature = hashlib.sha256(repr((file.pattern, states)).encode()).hexdigest()
    note = cache_folder() / "checked" / (hashlib.sha256(os.fsencode(path.absolute())).hexdigest() + ".json")
    remembered = _read_json(note)
    if not again and remembered.get("signature") == signature:
        return remembered["sha256"]
    digest = file_digest(path) if file.pattern is None else _listing_digest(members)
    write_json(note, {"path": str(path.absolute()), "signature": signature, "sha256": digest}, optional=True)
    return digest


def file_digest(path: Path) -> str:
    """Return the sha256 of one file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def trusted_digest(manifest: Manifest, layout: Layout, key: str) -> str | None:
    """Return the sha256 recorded when the file was first used, None where it never was."""
    return _read_json(_trust_note(manifest, layout, key)).get("sha256")


def trust(manifest: Manifest, layout: Layout, key: str, sha256: str, origin: str) -> None:
    """Record `sha256` as the digest that this file must have from now on."""
    write_json(_trust_note(manifest, layout, key), {"sha256": sha256, "origin": origin})


def write_json(path: Path, content: dict, *, optional: bool = False) -> None:
    """Write `content` so that no reader sees half of it; `optional`: a folder that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        os.replace(temporary, path)
    except OSError as error:
        if not optional:
            raise CompanionError(f"cannot write {path}: {error.strerror}. Set COMPANION_CACHE elsewhere.") from None


def _trust_note(manifest: Manifest, layout: Layout, key: str) -> Path:
    return cache_folder() / "trusted" / f"{manifest.name}--{layout.name}--{key}.json"


def _members(file: DataFile, path: Path) -> list[Path]:
    if file.pattern is None:
        return [path]
    return sorted(path.glob(file.pattern), key=lambda member: os.fsencode(member.name))


def _listing_digest(members: list[Path]) -> str:
    listing = "".join(f"{file_digest(member)}  {member.name}\n" for member in members)
    return hashlib.sha256(listing.encode()).hexdigest()


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
