from __future__ import annotations

from pathlib import Path

import pytest

from bertsmith.corpus import open_corpus, packings


def frame(content: bytes, window_log: int) -> bytes:
    """A frame of zstd that asks for a window, as `zstd --long=31` from a pipe does (RFC 8878)."""
    window = bytes([0, (window_log - 10) << 3])  # no size of the content, no checksum
    return b"\x28\xb5\x2f\xfd" + window + (len(content) << 3 | 1).to_bytes(3, "little") + content


def packed(folder: Path, window_log: int) -> str:
    file = folder / "a.txt.zst"
    file.write_bytes(frame(b"One is here. Two is there.\n", window_log))
    return str(file)


def test_a_window_of_128_mib_is_read(tmp_path: Path) -> None:
    corpus = open_corpus([packed(tmp_path, 27)], validation_fraction=0)
    assert list(corpus.read("train")) == [[["One is here.", "Two is there."]]]


def test_the_largest_window_is_read(tmp_path: Path) -> None:
    corpus = open_corpus([packed(tmp_path, 31)], validation_fraction=0)
    assert list(corpus.read("train")) == [[["One is here.", "Two is there."]]]


def test_a_window_without_memory_for_it_is_not_called_damage() -> None:
    error = OSError("Unable to decompress: Allocation error : not enough memory")
    said = packings.why_not_unpacked(error, "a.zst", ".zst")
    assert "2 GiB" in said
    assert "damaged" not in said


@pytest.mark.parametrize(
    ("name", "endings"),
    [
        ("a.txt", (".txt", "")),
        ("a.TXT.GZ", (".txt", ".gz")),
        ("a.tgz", (".tar", ".gz")),
        ("a.tar.zst", (".tar", ".zst")),
        ("a.gz", ("", ".gz")),
        ("a", ("", "")),
        ("1.5.tbz2", (".tar", ".bz2")),
    ],
)
def test_endings(name: str, endings: tuple[str, str]) -> None:
    assert packings.endings_of(name) == endings
