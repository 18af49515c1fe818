"""`companion data`: what it prints and how it exits."""

import pytest
from data_toys import entry

from companion.press.cli import main

CONTENT = b"some bytes"


@pytest.fixture
def project(toys, server, tmp_path, monkeypatch):
    """One data set that can be fetched, one that lies in COMPANION_DATA, one that is drawn."""
    server.answers["/blob"] = CONTENT
    monkeypatch.setenv("COMPANION_DATA", str(tmp_path / "given"))
    (tmp_path / "given").mkdir()
    (tmp_path / "given/here.bin").write_bytes(CONTENT)
    toys.write("remote", [{"files": {"blob": entry("remote.bin", CONTENT, url=[server.url("/blob")])}}])
    toys.write("here", [{"files": {"blob": entry("here.bin", CONTENT)}}])
    toys.write("drawn", None, kind="generated", splits={"train": {}})
    return tmp_path


def run(capsys, *words) -> tuple[int, str, str]:
    status = main(["data", *words])
    out, err = capsys.readouterr()
    return status, out, err


def test_list_shows_every_data_set_with_its_place(project, capsys):
    status, out, _ = run(capsys, "list")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert status == 0
    assert "real" in rows["here"] and "COMPANION_DATA" in rows["here"] and "CC0 1.0" in rows["here"]
    assert "can be fetched" in rows["remote"] and "generated" in rows["drawn"]
    assert str(project / "given") in out and str(project / "cache") in out


def test_list_says_what_is_there_in_part(project, toys, capsys):
    files = {"one": entry("here.bin", CONTENT), "two": entry("absent.bin", CONTENT)}
    toys.write("partly", [{"files": files}], splits={"train": {"files": ["one"]}})
    _, out, _ = run(capsys, "list")
    assert "COMPANION_DATA: 1 of 2 files" in out


def test_fetch_where_verify(project, capsys):
    assert run(capsys, "where", "remote")[0] == 2
    status, out, err = run(capsys, "fetch", "remote", "here")
    assert status == 0 and "remote: verified" in out and "here: verified" in out and "downloading http://127.0" in err
    assert run(capsys, "where", "remote") == (0, f"{project / 'cache/data'}\n", "")
    assert run(capsys, "where", "here") == (0, f"{project / 'given'}\n", "")
    status, out, _ = run(capsys, "verify")
    assert status == 0 and out.count(": ok, 1 file") == 2 and "drawn by" in out


def test_verify_finds_what_was_changed_behind_its_back(project, capsys):
    run(capsys, "fetch", "remote")
    (project / "cache/data/remote.bin").write_bytes(b"other bytes"[:10])
    status, out, _ = run(capsys, "verify")
    assert status == 1 and "remote: WRONG" in out and entry("x", CONTENT)["sha256"] in out and "here: ok" in out


def test_verify_fails_for_a_missing_data_set_only_if_it_was_asked_for(project, capsys):
    assert run(capsys, "verify")[0] == 0
    status, out, _ = run(capsys, "verify", "remote")
    assert status == 1 and "not on this machine" in out


def test_one_failing_fetch_does_not_stop_the_others(project, server, capsys):
    status, out, err = run(capsys, "fetch", "drawn", "unknown", "remote")
    assert status == 2 and "remote: verified" in out
    assert "nothing to fetch" in err and "unknown data set 'unknown'" in err


@pytest.mark.parametrize("words", [[], ["fetch"], ["where"], ["paint"]])
def test_incomplete_commands_are_refused_with_the_usage(project, capsys, words):
    with pytest.raises(SystemExit) as caught:
        main(["data", *words])
    assert caught.value.code == 2 and "usage: companion data" in capsys.readouterr().err
