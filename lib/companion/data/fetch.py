"""Downloads data sets into the cache. Nothing gets its final name before its size and sha256 have been checked.

Everything is written to a temporary folder of the same file system and moved, file by file, once it has been verified;
a lock per data set makes a second process wait and then find the work done.
"""

import contextlib
import errno
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import filelock
import pooch
import requests
import urllib3

from companion.data import local
from companion.data.local import Found
from companion.data.manifest import DataFile, Layout, Manifest
from companion.errors import CompanionError

TIMEOUT = (10.0, 60.0)  # seconds to connect, seconds without a byte
Report = Callable[[str], None]


def fetch(
    manifest: Manifest, *, trust: bool = False, progress: bool = False, report: Report = lambda line: None
) -> Found:
    """Return where the verified data set lies; it is downloaded into the cache only if it is not on this machine yet.

    trust: accept files without a verified digest and record the digest that they have now; progress: draw a bar for
    each download on standard error; report: told in a sentence what is being done.

    Raises CompanionError when the download fails, when what came is not what the manifest describes, when the disk is
    full, and for a file without a verified digest unless `trust` is given.
    """
    if manifest.kind == "generated":
        raise CompanionError(f"data set {manifest.name!r} is drawn by {manifest.loader}: there is nothing to fetch.")
    found = _on_this_machine(manifest, trust, report)
    if found is not None:
        return found
    layout = next((layout for layout in manifest.layouts if layout.downloads), None)
    if layout is None:
        raise CompanionError(f"data set {manifest.name!r} is not on this machine:\n  {local.absence(manifest)}")
    _refuse_unverified(manifest, layout, trust)
    with _locked(manifest, report):
        found = _on_this_machine(manifest, trust, report)
        if found is None:
            with _temporary_folder(manifest) as folder:
                _get_layout(manifest, layout, folder, _Downloader(progress, report))
            found = Found(layout, local.cached_data(), "cache")
    return found


def unpack(archive: Path, wanted: list[str], folder: Path) -> None:
    """Extract the members `wanted` of the tar file `archive` into `folder`.

    The whole archive is refused if any member has an absolute path, `..` in its path, or is a link or a device.
    """
    missing = set(wanted)
    try:
        with tarfile.open(archive, "r:*") as opened:
            for member in opened:
                _refuse_unsafe(archive, member)
                if member.name in missing:
                    target = folder / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with target.open("wb") as stream:
                        shutil.copyfileobj(opened.extractfile(member), stream, 1 << 20)
                    missing.discard(member.name)
    except (tarfile.TarError, EOFError) as error:
        raise CompanionError(f"{archive.name} cannot be unpacked: {error}.") from None
    if missing:
        raise CompanionError(f"{archive.name} lacks {', '.join(sorted(missing))}, which the manifest lists.")


class _Downloader:
    """Fetches one verified file at a time, trying each address in turn."""

    def __init__(self, progress: bool, report: Report) -> None:
        self.progress, self.report = progress, report

    def __call__(self, file: DataFile, folder: Path, expected: str | None) -> tuple[Path, str]:
        """Return the path of the downloaded `file` in `folder` and its sha256: `expected`, unless that is None."""
        target = folder / (PurePosixPath(file.path).name + ".part")
        failures = []
        for url in file.urls:
            self.report(f"downloading {url}")
            problem = self._try(url, target) or self._compare(file, target, expected)
            if not problem:
                return target, local.file_digest(target)
            target.unlink(missing_ok=True)
            failures.append(f"{url}: {problem}")
        raise CompanionError(
            f"{file.path} could not be downloaded; nothing of it was kept:\n  " + "\n  ".join(failures)
        )

    def _try(self, url: str, target: Path) -> str:
        # without `identity` a server may send a .gz file decompressed on the way, that is other bytes than published
        download = pooch.HTTPDownloader(
            progressbar=self.progress, chunk_size=1 << 16, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"}
        )
        try:
            download(url, str(target), None)
        except requests.HTTPError as error:
            return f"the server answers {error.response.status_code} {error.response.reason}"
        except requests.Timeout:
            return f"no answer within {TIMEOUT[0]:.0f} s, or no byte for {TIMEOUT[1]:.0f} s; try again"
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            arrived = target.stat().st_size if target.exists() else 0
            return f"the connection failed after {arrived:,} bytes ({_innermost(error)}); try again"
        return ""

    @staticmethod
    def _compare(file: DataFile, path: Path, expected: str | None) -> str:
        size = path.stat().st_size
        if file.size is not None and size != file.size:
            return f"size {size:,} bytes, expected {file.size:,}"
        actual = local.file_digest(path)
        return "" if expected in (None, actual) else f"sha256 {actual}, expected {expected}"


def _on_this_machine(manifest: Manifest, trust: bool, report: Report) -> Found | None:
    """Return the data set if it lies complete and right on this machine; damaged files of the cache are thrown away."""
    found = local.locate(manifest)
    if found is None:
        return None
    for key, file in found.layout.files.items():
        known = local.trusted_digest(manifest, found.layout, key)
        if not file.verified and known is None and trust:
            known = local.content_digest(file, found.path(key))
            local.trust(manifest, found.layout, key, known, str(found.path(key)))
            report(f"recorded {file.path}: sha256 {known}")
        try:
            local.check(manifest, found, key)
        except CompanionError:
            if found.place != "cache" or (file.sha256 or known) is None:
                raise
            report(f"{found.path(key)} is damaged; it is fetched again")
            found.path(key).unlink()
            return None
    return found


def _refuse_unverified(manifest: Manifest, layout: Layout, trust: bool) -> None:
    unknown = {
        key: file
        for key, file in layout.downloads.items()
        if not file.verified and local.trusted_digest(manifest, layout, key) is None
    }
    if unknown and not trust:
        reasons = "\n  ".join(f"{file.path}: {file.evidence}" for file in unknown.values())
        raise CompanionError(
            f"data set {manifest.name!r}: no published list confirms the sha256 of\n  {reasons}\n"
            f"To download all the same and hold every later copy to what comes now: "
            f"companion data fetch {manifest.name} --trust-on-first-use"
        )


def _get_layout(manifest: Manifest, layout: Layout, folder: Path, download: _Downloader) -> None:
    """Download what is missing of `layout` and move every file into the cache once it is verified."""
    kept = _sound(manifest, Found(layout, local.cached_data(), "cache"))
    missing = {key: file for key, file in layout.downloads.items() if key not in kept}
    needed = sum(file.size or 0 for file in missing.values()) + (layout.size if layout.archive is not None else 0)
    try:
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for key, file in missing.items():
            expected = file.sha256 or local.trusted_digest(manifest, layout, key)
            path, digest = download(file, folder, expected)
            if layout.archive is None:
                _publish(path, file)
            else:
                download.report(f"unpacking {file.path}")
                _publish_members(manifest, layout, path, folder / "unpacked")
            if expected is None:
                local.trust(manifest, layout, key, digest, file.urls[0])
                download.report(f"recorded {file.path}: sha256 {digest}")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise CompanionError(f"{manifest.name}: cannot write below {local.cache_folder()}: {error}.") from None
        free = shutil.disk_usage(local.cache_folder()).free
        raise CompanionError(
            f"{manifest.name}: the disk that holds {local.cache_folder()} is full: {needed:,} bytes are needed, "
            f"{free:,} are free. Free some space, or set COMPANION_CACHE to another disk."
        ) from None


def _sound(manifest: Manifest, found: Found) -> set[str]:
    """Return the keys of the files that are there and right."""
    sound = set()
    for key in local.present(found):
        with contextlib.suppress(CompanionError):
            local.check(manifest, found, key)
            sound.add(key)
    return sound


def _publish_members(manifest: Manifest, layout: Layout, archive: Path, folder: Path) -> None:
    unpack(archive, [file.path for file in layout.files.values()], folder)
    unpacked = Found(layout, folder, "archive")
    for key in layout.files:
        local.check(manifest, unpacked, key)
    for file in layout.files.values():
        _publish(folder / file.path, file)


def _publish(verified: Path, file: DataFile) -> None:
    target = local.cached_data() / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(verified, target)


def _refuse_unsafe(archive: Path, member: tarfile.TarInfo) -> None:
    path = PurePosixPath(member.name)
    reason = ""
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
        reason = "its path leads out of the folder"
    elif not (member.isfile() or member.isdir()):
        reason = "it is a link or a device"
    if reason:
        raise CompanionError(f"{archive.name}: refused, nothing of it was kept: member {member.name!r}: {reason}.")


@contextlib.contextmanager
def _locked(manifest: Manifest, report: Report) -> Iterator[None]:
    path = local.cache_folder() / "locks" / f"{manifest.name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            report(f"another process is fetching {manifest.name}; waiting for it")
            lock.acquire()
    except OSError as error:
        raise CompanionError(f"cannot write {path}: {error.strerror}. Set COMPANION_CACHE elsewhere.") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _temporary_folder(manifest: Manifest) -> Iterator[Path]:
    """Make an empty folder beside the data; what a killed process left of this data set is removed first."""
    parent = local.cache_folder() / "tmp"
    for left in parent.glob(f"{manifest.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{manifest.name}-", dir=parent))
    except OSError as error:
        raise CompanionError(f"cannot write {parent}: {error.strerror}. Set COMPANION_CACHE elsewhere.") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _innermost(error: BaseException) -> str:
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {error}"
