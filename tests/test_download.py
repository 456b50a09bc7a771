"""Downloads, against a server on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from bertsmith.corpus import open_corpus
from bertsmith.corpus.download import Source, _git_blob_id, fetch_wikitext
from bertsmith.corpus.wikitext import FILES
from bertsmith.errors import DownloadError

LINES = [" \n", " = Cranes = \n", " Cranes lift loads . They move . \n"]
CONTENT = "".join(LINES).encode()
BLOB_IDS = dict.fromkeys(
    FILES, hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT, usedforsecurity=False).hexdigest()
)


def archive(names: list[str] | None = None, content: bytes = CONTENT) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as members:
        for name in names or [f"wikitext-2/{file}" for file in FILES.values()]:
            members.writestr(name, content)
    return stream.getvalue()


def parquet() -> bytes:
    stream = pyarrow.BufferOutputStream()
    rows = [line if line.strip() else "" for line in LINES]
    pyarrow.parquet.write_table(pyarrow.table({"text": rows}), stream)
    return bytes(stream.getvalue().to_pybytes())


class Server(ThreadingHTTPServer):
    """Answers each path with (status, type, body, length it claims)."""

    answers: dict[str, tuple[int, str, bytes, int | None]]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        status, kind, body, claimed = self.server.answers[self.path]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.answers = {}
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BERTSMITH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def zip_source(server: Server, body: bytes, *, sha1: bool = True, **answer: object) -> Source:
    status = int(str(answer.get("status", 200)))
    claimed = answer.get("claimed")
    assert claimed is None or isinstance(claimed, int)
    server.answers["/w.zip"] = (status, str(answer.get("kind", "application/zip")), body, claimed)
    digest = hashlib.sha1(archive(), usedforsecurity=False).hexdigest()
    return Source(name="zip", urls={"archive": server.url("/w.zip")}, sha1=digest if sha1 else None)


def parquet_source(server: Server, body: bytes) -> Source:
    for split in FILES:
        server.answers[f"/{split}.parquet"] = (200, "application/octet-stream", body, None)
    urls = {split: server.url(f"/{split}.parquet") for split in FILES}
    return Source(name="parquet", urls=urls)


def test_an_archive_is_unpacked_once_with_progress(server: Server, cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    folder = fetch_wikitext(
        [zip_source(server, archive())], BLOB_IDS, lambda *figures: told.append(figures)
    )
    assert folder == cache / "wikitext-2"
    assert [(folder / file).read_bytes() for file in FILES.values()] == [CONTENT] * 3
    assert told[-1] == ("w.zip", len(archive()), len(archive()))
    server.answers.clear()  # a second call asks nobody
    assert fetch_wikitext([zip_source(server, b"")], BLOB_IDS) == folder
    assert [entry.name for entry in cache.iterdir()] == ["wikitext-2"]
    assert len(list(open_corpus(["wikitext-2"]).read("train"))) == 1


def test_parquet_rows_become_the_published_lines(server: Server) -> None:
    folder = fetch_wikitext([parquet_source(server, parquet())], BLOB_IDS)
    assert (folder / FILES["test"]).read_bytes() == CONTENT


def test_a_dead_source_falls_back_to_the_next(server: Server) -> None:
    page = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
    dead = zip_source(server, page, status=403, kind="application/xml")
    assert fetch_wikitext([dead, parquet_source(server, parquet())], BLOB_IDS).is_dir()


@pytest.mark.parametrize(
    ("body", "answer", "message"),
    [
        (
            b"<?xml version='1.0'?><Error/>",
            {"status": 403, "kind": "application/xml"},
            r"answered 403 .*application/xml",
        ),
        (b"<?xml version='1.0'?><Error/>", {}, "an XML page came"),
        (b"\n<!DOCTYPE html><html></html>", {}, "an HTML page came"),
        (b"hello", {}, "5 bytes of something else"),
        (archive()[:200], {"claimed": len(archive())}, "cut off"),
        (archive(content=b"other"), {}, "the checksum must be sha1"),
        (archive()[:200], {"sha1": False}, "the archive is damaged"),
        (archive(content=b"other"), {"sha1": False}, "must have git blob id"),
        (archive(["../escape", "/tmp/escape"]), {"sha1": False}, "damaged"),
    ],
)
def test_a_wrong_answer_is_said_and_leaves_nothing(
    body: bytes, answer: dict[str, object], message: str, server: Server, cache: Path
) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        fetch_wikitext([zip_source(server, body, **answer)], BLOB_IDS)  # type: ignore[arg-type]
    assert "--corpus" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []
    assert not (cache.parent / "escape").exists()


def test_no_server_at_all(cache: Path) -> None:
    source = Source(name="nowhere", urls={"archive": "http://127.0.0.1:9/w.zip"})
    with pytest.raises(DownloadError, match="not reached"):
        fetch_wikitext([source], BLOB_IDS)
    assert list(cache.iterdir()) == []


def test_the_published_validation_file_has_its_blob_id(wikitext: Path) -> None:
    from bertsmith.corpus.download import BLOB_IDS as PUBLISHED

    assert _git_blob_id(wikitext / FILES["validation"]) == PUBLISHED["validation"]


def test_a_cache_that_cannot_be_written(server: Server, cache: Path) -> None:
    cache.write_text("a file is in the way")
    with pytest.raises(DownloadError, match="Cannot write"):
        fetch_wikitext([zip_source(server, archive())], BLOB_IDS)
