"""A Hugging Face Hub on loopback: models in folders, by revision."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import huggingface_hub
import pytest


def commit_of(folder: Path) -> str:
    """Forty digits that stand for what a folder holds."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in sorted(folder.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


class Hub:
    """Serves `owner/name` from folders.

    Attributes:
        models: folders by "owner/name".
        asked: the paths that were asked for.
    """

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.models: dict[str, Path] = {}
        self.gated: set[str] = set()
        self.asked: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and content for a path."""
        self.asked.append(path)
        if path.startswith("/api/"):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        owner, name, _, revision, file = unquote(path).lstrip("/").split("/", 4)
        folder = self.models.get(f"{owner}/{name}")
        if folder is None:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        if f"{owner}/{name}" in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b""
        commit = commit_of(folder)
        if revision not in ("main", "v1", commit):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b""
        headers = {"X-Repo-Commit": commit}
        if not (folder / file).is_file():
            return 404, {**headers, "X-Error-Code": "EntryNotFound"}, b""
        content = (folder / file).read_bytes()
        return 200, {**headers, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}, content


@contextmanager
def hub() -> Iterator[Hub]:
    """A hub that answers until the end of the context."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self, *, with_content: bool) -> None:
            status, headers, content = served.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if with_content:
                self.wfile.write(content)

        def do_GET(self) -> None:
            self._answer(with_content=True)

        def do_HEAD(self) -> None:
            self._answer(with_content=False)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served = Hub(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def redirect(monkeypatch: pytest.MonkeyPatch, served: Hub, cache: Path) -> None:
    """Have `huggingface_hub` ask `served` in the place of the Hugging Face Hub."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
    template = served.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
