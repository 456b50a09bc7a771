"""Downloads, against a server on the loopback interface."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from upath import UPath

from bertsmith.corpus import download, open_corpus
from bertsmith.corpus.download import Source, fetch_wikitext, from_hub, from_mirror
from bertsmith.corpus.wikitext import FILES
from bertsmith.errors import DownloadError

LINES = [" \n", " = Cranes = \n", " Cranes lift loads . They move . \n"]
CONTENT = "".join(LINES).encode()
BLOB_IDS = dict.fromkeys(FILES, download._git_blob_id(CONTENT))


def archive(content: bytes = CONTENT) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as members:
        for file in FILES.values():
            members.writestr(f"wikitext-2/{file}", content)
    return stream.getvalue()


def parquet(rows: list[str]) -> bytes:
    stream = pyarrow.BufferOutputStream()
    table = pyarrow.table({"text": [row if row.strip() else "" for row in rows]})
    pyarrow.parquet.write_table(table, stream)
    return bytes(stream.getvalue().to_pybytes())


class Server(ThreadingHTTPServer):
    """Answers each path with (status, type, body, length it claims)."""

    answers: dict[str, tuple[int, str, bytes, int | None]]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        status, kind, body, claimed = self.server.answers[self.path.partition("?")[0]]
        if found := self.headers.get("Range"):
            first, last = map(int, found.removeprefix("bytes=").split("-"))
            status, body = 206, body[first : last + 1]
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815

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


def mirror(
    server: Server,
    body: bytes,
    status: int = 200,
    kind: str = "application/zip",
    claimed: int | None = None,
) -> dict[str, Source]:
    server.answers["/w.zip"] = (status, kind, body, claimed)
    sha1 = hashlib.sha1(archive(), usedforsecurity=False).hexdigest()
    return {"mirror": partial(from_mirror, url=server.url("/w.zip"), sha1=sha1)}


def hub(folder: Path, rows: list[str] = LINES) -> dict[str, Source]:
    folder.mkdir()
    for split in FILES:
        (folder / f"{split}-00000-of-00001.parquet").write_bytes(parquet(rows))
    return {"hub": partial(from_hub, folder=folder)}


def test_an_archive_is_unpacked_once_with_progress(server: Server, cache: Path) -> None:
    told: list[tuple[str, int, int]] = []
    source = mirror(server, archive())
    folder = fetch_wikitext(source, BLOB_IDS, lambda *figures: told.append(figures))
    assert folder == cache / "wikitext-2"
    assert [(folder / file).read_bytes() for file in FILES.values()] == [CONTENT] * 3
    assert told[-1] == ("w.zip", len(archive()), len(archive()))
    server.answers.clear()  # a second call asks nobody
    assert fetch_wikitext(source, BLOB_IDS) == folder
    assert [entry.name for entry in cache.iterdir()] == ["wikitext-2"]
    assert len(list(open_corpus(["wikitext-2"]).read("train"))) == 1


def test_parquet_rows_become_the_published_lines(tmp_path: Path) -> None:
    folder = fetch_wikitext(hub(tmp_path / "hub"), BLOB_IDS)
    assert (folder / FILES["test"]).read_bytes() == CONTENT


def test_the_hub_is_asked_for_one_revision(server: Server) -> None:
    repository, revision = (
        "datasets/Salesforce/wikitext",
        "b08601e04326c79dfdd32d625aee71d232d685c3",
    )
    names = [f"wikitext-2-v1/{split}-00000-of-00001.parquet" for split in FILES]
    body = parquet(LINES)
    about = json.dumps({"id": "Salesforce/wikitext", "sha": revision}).encode()
    found = [
        {"type": "file", "path": name, "size": len(body), "oid": f"{number:040}"}
        for number, name in enumerate(["wikitext-2-v1", *names])
    ]
    listing = json.dumps(found).encode()
    answers = {
        f"/api/{repository}/revision/{revision}": about,
        f"/api/{repository}/paths-info/{revision}": listing,
        f"/api/{repository}/tree/{revision}/wikitext-2-v1": listing,
    }
    answers |= {f"/{repository}/resolve/{revision}/{name}": body for name in names}
    server.answers = {path: (200, "application/json", body, None) for path, body in answers.items()}
    source = partial(from_hub, folder=UPath(download._HUB, endpoint=server.url("")))
    assert fetch_wikitext({"hub": source}, BLOB_IDS).is_dir()


@pytest.mark.parametrize("rows", [[], ["Other."]])
def test_a_source_without_the_files_falls_back_to_the_next(
    rows: list[str], server: Server, tmp_path: Path
) -> None:
    sources = hub(tmp_path / "hub", rows)
    if not rows:
        (tmp_path / "hub" / "test-00000-of-00001.parquet").unlink()
    assert fetch_wikitext({**sources, **mirror(server, archive())}, BLOB_IDS).is_dir()


@pytest.mark.parametrize(
    ("body", "status", "claimed", "message"),
    [
        (b"<?xml version='1.0'?><Error/>", 403, None, "answered 403"),
        (b"<?xml version='1.0'?><Error/>", 200, None, "the checksum must be sha1"),
        (archive()[:200], 200, len(archive()), "the checksum must be sha1"),
        (archive(b"other"), 200, None, "the checksum must be sha1"),
    ],
)
def test_a_wrong_answer_is_said_and_leaves_nothing(
    body: bytes, status: int, claimed: int | None, message: str, server: Server, cache: Path
) -> None:
    with pytest.raises(DownloadError, match=message) as caught:
        fetch_wikitext(mirror(server, body, status=status, claimed=claimed), BLOB_IDS)
    assert "--corpus" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("rows", "message"),
    [(["Other."], "must have git blob id"), (["word " * 100] * 200_000, "bytes of rows")],
)
def test_wrong_rows_are_said_and_leave_nothing(
    rows: list[str], message: str, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(DownloadError, match=message):
        fetch_wikitext(hub(tmp_path / "hub", rows), BLOB_IDS)
    assert list(cache.iterdir()) == []


def test_no_server_at_all(cache: Path) -> None:
    nowhere = "http://127.0.0.1:9"
    sources: dict[str, Source] = {
        "hub": partial(from_hub, folder=UPath(download._HUB, endpoint=nowhere)),
        "mirror": partial(from_mirror, url=f"{nowhere}/w.zip"),
    }
    with pytest.raises(DownloadError, match=r"hub: Cannot read hf://.*mirror: .*not reached"):
        fetch_wikitext(sources)
    assert list(cache.iterdir()) == []


def test_the_published_validation_file_has_its_blob_id(wikitext: Path) -> None:
    content = (wikitext / FILES["validation"]).read_bytes()
    assert download._git_blob_id(content) == download.BLOB_IDS["validation"]


def test_a_cache_that_cannot_be_written(server: Server, cache: Path) -> None:
    cache.write_text("a file is in the way")
    with pytest.raises(DownloadError, match="Cannot write"):
        fetch_wikitext(mirror(server, archive()), BLOB_IDS)
