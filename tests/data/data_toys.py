"""A small project with its own manifests, and a server on the loopback interface that can misbehave on request."""

import hashlib
import http.server
import threading
from pathlib import Path

import yaml

BASIC = {
    "title": "Toy",
    "kind": "real",
    "description": "A data set for the tests.",
    "licence": {"name": "CC0 1.0"},
    "citation": "None.",
    "classes": ["a", "b"],
    "loader": "companion.data.arrays:load",
    "splits": {"train": {"files": ["blob"]}},
}


def entry(path: str, content: bytes, **changes) -> dict:
    """A manifest's entry for a file with this content."""
    return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest(), **changes}


class Toys:
    """A project folder in which a test writes manifests."""

    def __init__(self, root: Path) -> None:
        self.root, self.cache = root / "project", root / "cache"
        self.manifests = self.root / "data_manifests"
        self.manifests.mkdir(parents=True)

    def write(self, name: str, layouts: list[dict] | None, **changes) -> Path:
        content = {"name": name, **BASIC, **changes}
        if layouts is not None:
            basics = {"name": "plain", "origin": "a test", "evidence": "a test"}
            content["layouts"] = [{**basics, **layout} for layout in layouts]
        path = self.manifests / f"{name}.yml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    def visible(self) -> list[str]:
        """Everything that lies under a final name in the cache."""
        data = self.cache / "data"
        return sorted(str(path.relative_to(data)) for path in data.rglob("*") if path.is_file() or path.is_symlink())

    def leftovers(self) -> list[str]:
        return sorted(str(path) for path in (self.cache / "tmp").glob("*"))


class Server:
    """Answers each path with bytes, or with what a function of the request handler does."""

    def __init__(self) -> None:
        self.answers, self.requests = {}, []
        self.headers = []
        answers, requests, headers = self.answers, self.requests, self.headers

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requests.append(self.path)
                headers.append(dict(self.headers))
                answer = answers.get(self.path)
                if answer is None:
                    self.send_error(404)
                elif callable(answer):
                    answer(self)
                else:
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer)

            def log_message(self, *_) -> None:
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.httpd.server_address[1]}{path}"
