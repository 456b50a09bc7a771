from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import stat
import tarfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO

import pyarrow
import pyarrow.parquet
import pytest

from bertsmith.config import PreparationConfig
from bertsmith.corpus import Columns, Document, archives, open_corpus
from bertsmith.corpus.packings import endings_of, unpacked
from bertsmith.errors import CorpusError
from bertsmith.preparation.prepare import prepare_store

ENDINGS = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"]
FILES = {
    "b/one.txt": b"One is here. Two is there.\n\nThree.\n",
    "a/two.txt.gz": gzip.compress(b"Four waits."),
    "./c.txt": "Fünf ist da.".encode(),
}
DOCUMENTS: list[Document] = [
    [["One is here.", "Two is there."]],
    [["Three."]],
    [["Four waits."]],
    [["Fünf ist da."]],
]


def pack(folder: Path, files: dict[str, bytes], ending: str) -> Path:
    path = folder / f"x{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            archive.addfile(header(name, len(content)), io.BytesIO(content))
    packers: dict[str, Callable[[bytes], bytes]] = {
        "": lambda content: content,
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda content: bytes(pyarrow.compress(content, codec="zstd", asbytes=True)),
    }
    path.write_bytes(packers[endings_of(path.name)[1]](stream.getvalue()))
    return path


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, "/etc/passwd"
    return info


def read(
    path: Path, left_out: Counter[str] | None = None, encoding: str = "utf-8"
) -> list[Document]:
    corpus = open_corpus([str(path)], validation_fraction=0, encoding=encoding)
    parts = pickle.loads(pickle.dumps(corpus.parts))  # as they are sent to processes
    counts = Counter[str]() if left_out is None else left_out
    return [document for part in parts for _, document in part.read(counts)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_members_are_read_as_the_files_of_a_folder(ending: str, tmp_path: Path) -> None:
    left_out: Counter[str] = Counter()
    others = {"notes.xml": b"<a/>", ".hidden.txt": b"Hidden.", "__MACOSX/b/one.txt": b"\0"}
    path = pack(tmp_path, {**FILES, **others}, ending)
    with pytest.warns(UserWarning, match="1 files that are not text"):
        assert read(path, left_out) == DOCUMENTS
    assert left_out["files that are not text (.xml)"] == 1
    with pytest.warns(UserWarning, match="1 files that are not text"):
        corpus = open_corpus([str(path)])
    with pytest.warns(UserWarning, match="1 files that are not text"):
        again = open_corpus([str(path)])
    assert [digest() for digest in corpus.content] == [digest() for digest in again.content]


@pytest.mark.parametrize("ending", ENDINGS)
def test_tables_in_archives(ending: str, tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"Row {number}."}) + "\n" for number in range(3))
    path = pack(tmp_path, {"a.jsonl": rows.encode(), "b.csv": b'text\n"Row 3."\n'}, ending)
    assert read(path) == [[[f"Row {number}."]] for number in range(4)]


@pytest.mark.parametrize("ending", [".zip", ".tar", ".tgz"])
def test_parquet_is_read_where_its_end_is_at_hand(ending: str, tmp_path: Path) -> None:
    stream = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["A.", "B."]}), stream)
    path = pack(tmp_path, {"a.parquet": stream.getvalue().to_pybytes()}, ending)
    if ending == ".tar":
        assert read(path) == [[["A."]], [["B."]]]
    else:
        with pytest.raises(CorpusError, match="must be unpacked: Parquet is read from its end"):
            read(path)


def test_members_in_another_encoding(tmp_path: Path) -> None:
    path = pack(tmp_path, {"a.txt": "Мост стар.".encode("koi8-r")}, ".zip")
    assert read(path, encoding="koi8-r") == [[["Мост стар."]]]


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_a_store_of_an_archive_is_that_of_its_files(ending: str, tmp_path: Path) -> None:
    text = "The crane lifts a beam. The bird flies north.\n\n" * 50
    files = {f"{name}.txt": (text + name).encode() for name in "abc"}
    folder = tmp_path / "plain"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    stores = [
        prepare_store(PreparationConfig(corpus=(str(path),)), tmp_path / f"st{number}", processes=2)
        for number, path in enumerate((folder, pack(tmp_path, files, ending)))
    ]
    assert stores[0].manifest.splits == stores[1].manifest.splits


@pytest.mark.parametrize("ending", ENDINGS)
def test_of_two_members_of_one_name_the_last_counts(ending: str, tmp_path: Path) -> None:
    path = pack(tmp_path, {"a.txt": b"Old.", "b.txt": b"B.", "./a.txt": b"New."}, ending)
    assert read(path) == [[["B."]], [["New."]]]


def test_links_and_devices_are_counted_and_never_followed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
            archive.addfile(header(f"{number}.txt", 0, kind))
        archive.addfile(header("../../outside.txt", 2), io.BytesIO(b"O."))
        archive.addfile(header("a.txt", 2), io.BytesIO(b"A."))
    left_out: Counter[str] = Counter()
    with pytest.warns(UserWarning, match="3 links and devices .* 1 members outside"):
        assert read(path, left_out) == [[["A."]]]
    assert left_out["links and devices in archives"] == 3
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("l.txt")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("a.txt", "A.")
    with pytest.warns(UserWarning, match="1 links and devices in archives"):
        assert read(path) == [[["A."]]]


def test_a_packed_archive_is_unpacked_once_a_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {f"{number}.txt": b"A line of text. " * 300 for number in range(200)}
    path = pack(tmp_path, files, ".tar.gz")
    monkeypatch.setattr(archives, "_BLOCK_BYTES", 2**14)
    opened: list[str] = []

    def count(stream: IO[bytes], packing: str) -> AbstractContextManager[IO[bytes]]:
        opened.append(packing)
        return unpacked(stream, packing)

    monkeypatch.setattr(archives, "unpacked", count)
    corpus = open_corpus([str(path)], validation_fraction=0)
    for _ in range(2):
        assert len([digest() for digest in corpus.content]) == 201
        assert len(list(corpus.read("train"))) == 200
    assert len(opened) <= 6  # the list, a look at each, two digests and two readings


def damaged(ending: str, change: Callable[[bytearray], bytes], folder: Path) -> Path:
    path = pack(folder, {f"{number}.txt": b"Text. " * 500 for number in range(9)}, ending)
    path.write_bytes(change(bytearray(path.read_bytes())))
    return path


def zeroed(content: bytearray) -> bytes:
    place = max(content.find(b"4.txt\0"), 0) or len(content) // 2
    content[place : place + 512] = b"x" * 512
    return bytes(content)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "change", [zeroed, lambda content: bytes(content[: len(content) // 2]), lambda content: b""]
)
def test_damaged_archives_are_named(
    ending: str, change: Callable[[bytearray], bytes], tmp_path: Path
) -> None:
    path = damaged(ending, change, tmp_path)
    with pytest.raises(CorpusError, match="damaged, or not") as caught:
        read(path)
    assert str(path) in str(caught.value)


def encrypted(content: bytearray) -> bytes:
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def unknown_method(content: bytearray) -> bytes:
    content[content.index(b"PK\x01\x02") + 10] = 9
    return bytes(content)


def overlapping(content: bytearray) -> bytes:
    first = content.index(b"PK\x01\x02")
    second = content.index(b"PK\x01\x02", first + 4)
    content[second + 42 : second + 46] = content[first + 42 : first + 46]
    return bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (encrypted, "must not be encrypted"),
        (unknown_method, "packed by method 9"),
        (overlapping, "overlaps another member"),
    ],
)
def test_archives_that_are_not_read_say_why(
    change: Callable[[bytearray], bytes], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match=message):
        read(damaged(".zip", change, tmp_path))


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar.gz"
    with gzip.open(path, "wb") as stream:
        stream.write(header("x", 2**36, tarfile.XHDTYPE).tobuf(tarfile.GNU_FORMAT) + bytes(2**21))
    with pytest.raises(CorpusError, match="a header of"):
        read(path)


def test_an_archive_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"x\.zip must hold text files"):
        read(pack(tmp_path, {"a.png": b"\x89PNG"}, ".zip"))


def test_archives_of_a_pattern_are_read_as_folders(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"text": f"Row {number}."}) + "\n" for number in range(3))
    licence = b"A licence. " * 99
    pack(tmp_path, {"wiki_00": rows.encode(), "LICENSE": licence}, ".zip").rename(
        tmp_path / "a.zip"
    )
    pack(tmp_path, {"b.txt": "Мост стар.".encode("koi8-r")}, ".tar.gz").rename(
        tmp_path / "b.tar.gz"
    )
    with pytest.warns(UserWarning, match="1 files about the text"):
        found = read(tmp_path / "*", encoding="koi8-r")
    assert found == [*([[f"Row {number}."]] for number in range(3)), [["Мост стар."]]]


def test_damaged_archives_of_a_pattern_are_bounded(tmp_path: Path) -> None:
    files = {f"{number}.txt": b"Text. " * 500 for number in range(9)}
    whole = pack(tmp_path, files, ".zip").rename(tmp_path / "a.zip")
    (tmp_path / "b.zip").write_bytes(whole.read_bytes()[:-40])
    with pytest.raises(CorpusError, match=r"1 files have more .*b\.zip is damaged.*--max-bad-rows"):
        read(tmp_path / "*.zip")
    with pytest.warns(UserWarning, match="1 archives that cannot be read, as .*b.zip"):
        corpus = open_corpus(
            [str(tmp_path / "*.zip")], validation_fraction=0, columns=Columns(max_bad_rows=0.6)
        )
    assert len(list(corpus.read("train"))) == 9


def test_members_of_a_pattern_keep_the_order_of_their_archive(tmp_path: Path) -> None:
    for name in ("b", "a"):
        files = {f"{member}.txt": f"{name} {member}.".encode() for member in "yzx"}
        pack(tmp_path, files, ".tar.gz").rename(tmp_path / f"{name}.tar.gz")
    assert read(tmp_path / "*.tar.gz") == [
        [[f"{name} {member}."]] for name in "ab" for member in "yzx"
    ]


def test_members_outside_of_an_archive_are_counted(tmp_path: Path) -> None:
    left_out: Counter[str] = Counter()
    path = pack(tmp_path, {"../a.txt": b"Out.", "b.txt": b"In."}, ".zip")
    with pytest.warns(UserWarning, match="1 members outside of their archive"):
        assert read(path, left_out) == [[["In."]]]


@pytest.mark.parametrize("place", ["first", "middle", "header"])
def test_a_damaged_member_is_left_out_and_ends_nothing(place: str, tmp_path: Path) -> None:
    files = {f"{number}.txt": f"The crane {number} lifts. ".encode() * 5000 for number in range(3)}
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        middle = archive.getinfo("1.txt")
    raw = bytearray(path.read_bytes())
    at = {"first": 40, "middle": middle.header_offset + 200, "header": middle.header_offset}[place]
    raw[at] ^= 4
    path.write_bytes(raw)
    good = tmp_path / "good.txt"
    good.write_text("The bird flies north. The river waits.\n\n" * 9)
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("always")
        store = prepare_store(
            PreparationConfig(corpus=(str(good), str(path)), max_bad_rows=1.0, min_frequency=1),
            tmp_path / "st",
        )
        assert store.manifest.report["splits"]["train"]["documents"] >= 9
        with pytest.raises(CorpusError, match="--max-bad-rows"):
            prepare_store(PreparationConfig(corpus=(str(path),), min_frequency=1), tmp_path / "st2")
