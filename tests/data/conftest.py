"""Fixtures of the data tests: a project of its own and a server on the loopback interface."""

import pytest
from data_toys import Server, Toys


@pytest.fixture
def toys(tmp_path, monkeypatch) -> Toys:
    """A project of its own: its manifests, an empty cache, no COMPANION_DATA."""
    toys = Toys(tmp_path)
    monkeypatch.setenv("COMPANION_ROOT", str(toys.root))
    monkeypatch.setenv("COMPANION_CACHE", str(toys.cache))
    monkeypatch.delenv("COMPANION_DATA", raising=False)
    return toys


@pytest.fixture
def server(monkeypatch):
    """A fresh server; no proxy stands between it and the test."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.httpd.shutdown()
    server.httpd.server_close()
