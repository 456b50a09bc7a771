"""What stands where a small file belongs, and would be waited for or fill the memory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bertsmith.config import given_by_store, resolve
from bertsmith.data.disk import open_store
from bertsmith.data.manifest import FREQUENCIES_FILE, MANIFEST_FILE
from bertsmith.durable import (
    CHECKSUMS_FILE,
    damage,
    is_ours,
    read_small,
    whole_file,
    whole_folder,
)
from bertsmith.errors import BertsmithError
from bertsmith.preparation.prepare import prepare_store
from bertsmith.reporting.metrics_file import METRICS_FILE, MetricsFile, last_metrics, read_metrics


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**33)


def folder(path: Path) -> None:
    path.mkdir()


MAKERS: list[Callable[[Path], None]] = [os.mkfifo, endless, sparse, folder]
"""What may stand where a small file belongs."""

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")


def test_what_is_small_is_read_and_nothing_more(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"12345")
    assert read_small(file, 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_small(file, 4)
    with pytest.raises(FileNotFoundError):
        read_small(tmp_path / "b", 4)


@pytest.mark.parametrize("make", MAKERS)
def test_config_files(make: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    make(file)
    with pytest.raises(BertsmithError, match=r"Cannot read the config file .*(no reg|more than)"):
        resolve(file=file)


@pytest.mark.parametrize("make", MAKERS)
def test_the_command_ends_with_a_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    make(file)
    code = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from bertsmith.cli.main import main\n"
        f"main(['pretrain', '--config', {str(file)!r}])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("bertsmith: error: Cannot read the config file")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("make", MAKERS)
def test_the_manifest_and_the_frequencies_of_a_store(
    make: Callable[[Path], None], text_file: Path, tmp_path: Path
) -> None:
    from bertsmith.config import PreparationConfig

    store = prepare_store(PreparationConfig(corpus=(str(text_file),)), tmp_path / "st").path
    (store / "train" / FREQUENCIES_FILE).unlink()
    make(store / "train" / FREQUENCIES_FILE)
    with pytest.raises(BertsmithError, match=FREQUENCIES_FILE):
        open_store(store).split("train")
    (store / MANIFEST_FILE).unlink()
    make(store / MANIFEST_FILE)
    with pytest.raises(BertsmithError):
        open_store(store)
    if make is sparse:
        with pytest.raises(BertsmithError, match="more than"):
            given_by_store([str(store)])
    else:
        assert given_by_store([str(store)]) == []


@pytest.mark.parametrize("make", MAKERS)
def test_the_log_of_a_run(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / METRICS_FILE)
    assert last_metrics(tmp_path) == {}
    if make is not sparse:  # is read by pieces, which takes a while
        assert read_metrics(tmp_path) == []
        with pytest.raises(BertsmithError, match=r"metrics\.jsonl must be a regular file"):
            MetricsFile(tmp_path)


def test_lines_of_the_log_that_are_endless_are_left_out(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_bytes(
        b'{"step": 1}\n' + b"\0" * 10**6 + b"\n" + b'{"step": 2}\n'
    )
    assert read_metrics(tmp_path) == [{"step": 1}, {"step": 2}]


@pytest.mark.parametrize("make", MAKERS)
def test_whose_a_folder_is(make: Callable[[Path], None], tmp_path: Path) -> None:
    """As asked of old checkpoints before they are removed."""
    with whole_folder(tmp_path / "x") as target:
        (target / "a").write_text("a")
    assert is_ours(tmp_path / "x")
    (tmp_path / "x" / CHECKSUMS_FILE).unlink()
    make(tmp_path / "x" / CHECKSUMS_FILE)
    code = "import sys, pathlib; from bertsmith.durable import is_ours\n"
    code += "sys.exit(is_ours(pathlib.Path(sys.argv[1])))"
    subprocess.run([sys.executable, "-c", code, tmp_path / "x"], check=True, timeout=60)


def test_a_list_of_checksums_that_is_a_pipe(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "x") as target:
        (target / "a").write_text("a")
    (tmp_path / "x" / CHECKSUMS_FILE).unlink()
    os.mkfifo(tmp_path / "x" / CHECKSUMS_FILE)
    assert str(damage(tmp_path / "x")).startswith(f"{CHECKSUMS_FILE} is not a regular file")


@pytest.mark.parametrize("has_other_writers", [False, True])
def test_a_file_whose_writing_ends_early_is_as_it_was(
    has_other_writers: bool, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def write(text: str) -> None:
        with whole_file(path, has_other_writers=has_other_writers) as part:
            part.write_text(text)
            assert path.read_text() == "before"
            if not text:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write("")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    write("after")
    assert path.read_text() == "after"
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
