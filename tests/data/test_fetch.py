"""Downloads that go wrong in every way leave nothing behind and say what happened."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time

import pytest
from data_toys import entry

from companion.data import fetch as fetching
from companion.data import local
from companion.data.fetch import fetch
from companion.data.manifest import load_manifest
from companion.errors import CompanionError

CONTENT = bytes(range(256)) * 400  # 102,400 bytes


def toy(toys, server, content=CONTENT, **changes):
    """The manifest of a data set of one file, which the server gives at /blob."""
    urls = changes.pop("url", [server.url("/blob")])
    toys.write("toy", [{"files": {"blob": {**entry("toy/blob.bin", content, url=urls), **changes}}}])
    return load_manifest("toy")


def failure(toys, manifest, **options) -> str:
    """The message of a failing fetch, after which nothing may be visible."""
    with pytest.raises(CompanionError) as caught:
        fetch(manifest, **options)
    assert toys.visible() == []
    assert toys.leftovers() == []
    return str(caught.value)


def test_a_verified_file_is_downloaded_once(toys, server):
    manifest = toy(toys, server)
    server.answers["/blob"] = CONTENT
    found = fetch(manifest)
    assert found.path("blob").read_bytes() == CONTENT
    assert toys.visible() == ["toy/blob.bin"]
    assert fetch(manifest).root == found.root
    assert server.requests == ["/blob"]
    assert server.headers[0]["Accept-Encoding"] == "identity"  # else a .gz could arrive decompressed
    assert toys.leftovers() == []


def test_companion_data_comes_first(toys, server, tmp_path, monkeypatch):
    manifest = toy(toys, server)
    given = tmp_path / "given"
    (given / "toy").mkdir(parents=True)
    (given / "toy/blob.bin").write_bytes(CONTENT)
    monkeypatch.setenv("COMPANION_DATA", str(given))
    assert fetch(manifest).root == given
    assert (server.requests, toys.visible()) == ([], [])


def test_a_wrong_file_in_companion_data_is_an_error_and_is_left_alone(toys, server, tmp_path, monkeypatch):
    manifest = toy(toys, server)
    wrong = tmp_path / "given/toy/blob.bin"
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(b"x" * len(CONTENT))
    monkeypatch.setenv("COMPANION_DATA", str(tmp_path / "given"))
    message = failure(toys, manifest)
    assert str(wrong) in message and manifest.layouts[0].files["blob"].sha256 in message
    assert wrong.exists() and server.requests == []


def test_404_names_the_address(toys, server):
    message = failure(toys, toy(toys, server))
    assert server.url("/blob") in message and "404" in message


def test_a_truncated_file_is_refused_with_both_sizes(toys, server):
    server.answers["/blob"] = CONTENT[:-1000]
    message = failure(toys, toy(toys, server))
    assert "101,400" in message and "102,400" in message


def test_a_wrong_digest_is_refused_with_both_digests(toys, server):
    manifest = toy(toys, server)
    other = b"\1" + CONTENT[1:]
    server.answers["/blob"] = other
    message = failure(toys, manifest)
    assert entry("x", other)["sha256"] in message and manifest.layouts[0].files["blob"].sha256 in message


def test_a_connection_dropped_half_way_is_refused(toys, server):
    def drop(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:50_000])
        handler.wfile.flush()
        handler.connection.close()

    server.answers["/blob"] = drop
    message = failure(toys, toy(toys, server))
    assert "connection failed after" in message and "try again" in message


def test_a_server_that_falls_silent_is_given_up(toys, server, monkeypatch):
    def stall(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(CONTENT)))
        handler.end_headers()
        handler.wfile.write(CONTENT[:1000])
        handler.wfile.flush()
        time.sleep(3)

    server.answers["/blob"] = stall
    monkeypatch.setattr(fetching, "TIMEOUT", (1.0, 0.3))
    assert "connection failed after" in failure(toys, toy(toys, server))


def test_nobody_listens(toys, server):
    manifest = toy(toys, server, url=["http://127.0.0.1:9/blob"])
    assert "connection failed after 0 bytes" in failure(toys, manifest)


def test_a_second_address_helps(toys, server):
    server.answers["/mirror"] = CONTENT
    manifest = toy(toys, server, url=[server.url("/blob"), server.url("/mirror")])
    assert fetch(manifest).path("blob").read_bytes() == CONTENT
    assert server.requests == ["/blob", "/mirror"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full, a device on which every write fails")
def test_a_disk_that_fills_up_while_writing(toys, server, monkeypatch, tmp_path):
    """The file that pooch writes is a link to /dev/full, so that the kernel itself answers ENOSPC."""
    server.answers["/blob"] = CONTENT
    manifest = toy(toys, server)
    original = fetching.tempfile.mkdtemp

    def folder_on_a_full_disk(**options):
        folder = original(**options)
        os.symlink("/dev/full", os.path.join(folder, "blob.bin.part"))
        return folder

    monkeypatch.setattr(fetching.tempfile, "mkdtemp", folder_on_a_full_disk)
    message = failure(toys, manifest)
    assert "is full" in message and "102,400" in message and "COMPANION_CACHE" in message
    assert os.path.exists("/dev/full")


def test_a_disk_that_is_too_small_is_noticed_before_the_download(toys, server, monkeypatch):
    server.answers["/blob"] = CONTENT
    manifest = toy(toys, server)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 5000, 5000))
    message = failure(toys, manifest)
    assert "102,400" in message and "5,000" in message and server.requests == []


def test_a_cache_that_cannot_be_written(toys, server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPANION_CACHE", str(tmp_path / "file"))
    message = failure(toys, toy(toys, server))
    assert "COMPANION_CACHE" in message and str(tmp_path / "file") in message


def test_a_damaged_file_of_the_cache_is_replaced(toys, server):
    server.answers["/blob"] = CONTENT
    manifest = toy(toys, server)
    path = fetch(manifest).path("blob")
    path.write_bytes(b"\1" + CONTENT[1:])
    said = []
    assert fetch(manifest, report=said.append).path("blob").read_bytes() == CONTENT
    assert any("damaged" in line for line in said) and server.requests == ["/blob", "/blob"]


def test_what_has_arrived_is_not_downloaded_again(toys, server):
    files = {key: entry(f"toy/{key}", key.encode(), url=[server.url(f"/{key}")]) for key in ("one", "two")}
    toys.write("toy", [{"files": files}], splits={"train": {"files": ["one"]}})
    server.answers["/one"] = b"one"
    with pytest.raises(CompanionError, match="404"):
        fetch(load_manifest("toy"))
    assert toys.visible() == ["toy/one"]  # verified, so it may stay
    (toys.cache / "data/toy/two").write_bytes(b"bad")
    server.answers["/two"] = b"two"
    fetch(load_manifest("toy"))
    assert (toys.cache / "data/toy/two").read_bytes() == b"two"
    assert server.requests == ["/one", "/two", "/two"]


def slow(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    for start in range(0, len(CONTENT), 10_240):
        time.sleep(0.3)
        handler.wfile.write(CONTENT[start : start + 10_240])
        handler.wfile.flush()


def command(*words) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "companion.press.cli", "data", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_two_processes_at_once_download_once(toys, server):
    toy(toys, server)
    server.answers["/blob"] = slow
    both = [command("fetch", "toy"), command("fetch", "toy")]
    outputs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert server.requests == ["/blob"]
    assert sum(b"waiting" in err for _, err in outputs) == 1
    assert toys.visible() == ["toy/blob.bin"] and toys.leftovers() == []


def test_a_killed_download_leaves_nothing_visible_and_the_next_one_cleans_up(toys, server):
    manifest = toy(toys, server)
    server.answers["/blob"] = slow
    process = command("fetch", "toy")
    try:
        deadline = time.monotonic() + 30
        while not any(path.stat().st_size for path in toys.cache.glob("tmp/*/*")):
            assert time.monotonic() < deadline, "the download did not begin"
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert toys.visible() == [] and len(toys.leftovers()) == 1
    server.answers["/blob"] = CONTENT
    fetch(manifest)
    assert toys.visible() == ["toy/blob.bin"] and toys.leftovers() == []


def test_an_unverified_file_is_refused_until_trusted_and_held_to_its_first_digest(toys, server):
    blob = {"path": "toy/blob.bin", "verified": False, "evidence": "no list", "url": [server.url("/blob")]}
    toys.write("toy", [{"files": {"blob": blob}}])
    manifest = load_manifest("toy")
    server.answers["/blob"] = CONTENT
    message = failure(toys, manifest)
    assert "no list" in message and "--trust-on-first-use" in message and server.requests == []

    path = fetch(manifest, trust=True).path("blob")
    assert local.trusted_digest(manifest, manifest.layouts[0], "blob") == entry("x", CONTENT)["sha256"]
    path.unlink()
    server.answers["/blob"] = b"something else"
    assert entry("x", CONTENT)["sha256"] in failure(toys, manifest, trust=True)


def test_an_unverified_file_laid_out_by_hand_is_refused_until_trusted(toys, server, tmp_path, monkeypatch):
    blob = {"path": "blob.bin", "verified": False, "evidence": "no list"}
    toys.write("toy", [{"files": {"blob": blob}}])
    (tmp_path / "given").mkdir()
    (tmp_path / "given/blob.bin").write_bytes(CONTENT)
    monkeypatch.setenv("COMPANION_DATA", str(tmp_path / "given"))
    manifest = load_manifest("toy")
    assert "--trust-on-first-use" in failure(toys, manifest)
    assert fetch(manifest, trust=True).place == "COMPANION_DATA"
    (tmp_path / "given/blob.bin").write_bytes(b"changed")
    assert entry("x", b"changed")["sha256"] in failure(toys, manifest)


def test_a_generated_data_set_and_one_without_a_download_say_so(toys):
    toys.write("drawn", None, kind="generated", splits={"train": {}})
    toys.write("private", [{"origin": "a drawer", "files": {"blob": entry("blob", b"x")}}])
    assert "nothing to fetch" in failure(toys, load_manifest("drawn"))
    message = failure(toys, load_manifest("private"))
    assert "no public download" in message and "a drawer" in message and "COMPANION_DATA is not set" in message


def packed(*members: tuple[str, bytes | tarfile.TarInfo]) -> bytes:
    """A .tar.gz of these members; a TarInfo stands for a link or device."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.name = name
                archive.addfile(info)
    return buffer.getvalue()


def link(kind: bytes, target: str = "/etc/passwd") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def archived(toys, server, archive: bytes, **files: bytes):
    """The manifest of a data set whose files come in the archive that the server gives at /tar."""
    server.answers["/tar"] = archive
    layout = {"archive": entry("toy.tar.gz", archive, url=[server.url("/tar")])}
    layout["files"] = {key: entry(f"toy/{key}", content) for key, content in files.items()}
    toys.write("toy", [layout], splits={"train": {"files": list(files)}})
    return load_manifest("toy")


def test_an_archive_is_unpacked_to_its_verified_files_only(toys, server):
    archive = packed(("toy/one", b"1"), ("toy/two", b"22"), ("toy/readme", b"more"))
    manifest = archived(toys, server, archive, one=b"1", two=b"22")
    found = fetch(manifest)
    assert toys.visible() == ["toy/one", "toy/two"] and found.path("two").read_bytes() == b"22"


@pytest.mark.parametrize(
    "member",
    [
        ("../evil", b"!"),
        ("toy/../../evil", b"!"),
        ("/tmp/evil", b"!"),
        ("toy\\..\\evil", b"!"),
        ("toy/link", link(tarfile.SYMTYPE)),
        ("toy/link", link(tarfile.LNKTYPE)),
        ("toy/device", link(tarfile.CHRTYPE, "")),
        ("toy/pipe", link(tarfile.FIFOTYPE, "")),
    ],
    ids=lambda member: member[0],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_archive_with_a_dangerous_member_is_refused_as_a_whole(toys, server, tmp_path, member, first):
    members = [member, ("toy/one", b"1")] if first else [("toy/one", b"1"), member]
    # a member after the wanted ones counts too: an archive that tries this is not the one it claims to be
    before = sorted(tmp_path.rglob("evil"))
    message = failure(toys, archived(toys, server, packed(*members), one=b"1"))
    assert repr(member[0]) in message and "refused" in message
    assert sorted(tmp_path.rglob("evil")) == before == [] and not os.path.exists("/tmp/evil")


def test_a_wanted_member_that_is_a_link_is_refused(toys, server):
    message = failure(toys, archived(toys, server, packed(("toy/one", link(tarfile.SYMTYPE))), one=b"1"))
    assert "link" in message


def test_an_archive_without_a_file_of_the_manifest_or_with_another_is_refused(toys, server):
    message = failure(toys, archived(toys, server, packed(("toy/one", b"1")), one=b"1", two=b"22"))
    assert "lacks toy/two" in message
    message = failure(toys, archived(toys, server, packed(("toy/one", b"2")), one=b"1"))
    assert entry("x", b"2")["sha256"] in message


def test_something_that_is_no_archive_is_refused(toys, server):
    assert "cannot be unpacked" in failure(toys, archived(toys, server, CONTENT, one=b"1"))
    broken = packed(("toy/one", os.urandom(5000)))[:-2000]
    assert "cannot be unpacked" in failure(toys, archived(toys, server, broken, one=b"1"))
