"""Batches made ahead, by a thread and by processes: the same, whatever becomes of these."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from torch import Tensor

from bertsmith.batch import Batch
from bertsmith.config import DataConfig, PreparationConfig
from bertsmith.data import ahead, examples
from bertsmith.data.ahead import BatchesAhead, usual_num_workers
from bertsmith.data.pairs import make_drawing
from bertsmith.data.store import TokenStore
from bertsmith.errors import DataError
from bertsmith.preparation.prepare import prepare_store
from bertsmith.tokenizer import Tokenizer
from tests.makers import Maker, OnlyAtHome, TwoWordsError, of_all_kinds
from tests.support.stores import make_batches

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread makes batches")


def assert_same(one: Any, other: Any) -> None:
    """Type for type and value for value."""
    assert type(one) is type(other)
    if isinstance(one, Tensor):
        assert (one.dtype, one.requires_grad) == (other.dtype, other.requires_grad)
        assert torch.equal(one, other)
    elif isinstance(one, np.ndarray):
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, Batch):
        assert_same(vars(one), vars(other))
    else:
        assert one == other


def until(batches: BatchesAhead[Any], condition: Callable[[], object]) -> None:
    with batches._changed:
        assert batches._changed.wait_for(condition, timeout=300)


def wait_until_up(batches: BatchesAhead[Any], num_workers: int) -> int:
    """Until so many processes make batches, and no thread; a number that nobody is at work on."""
    batches.wait_for_workers()
    assert batches._num_up == num_workers
    number = 1000
    while batches._threads[0].is_alive() == bool(num_workers):
        batches.batch(number)
        number += 1
    return number + 1000


def descriptors() -> set[str]:
    return {
        str(path.readlink())
        for path in Path("/proc/self/fd").iterdir()
        if path.is_symlink() and not str(path.readlink()).startswith("/proc")
    }


@pytest.fixture
def _nothing_left() -> Iterator[None]:
    """No process, no descriptor and no memory is left behind."""
    processes, files = psutil.Process().children(recursive=True), descriptors()
    yield
    gc.collect()
    assert set(psutil.Process().children(recursive=True)) <= set(processes)
    assert descriptors() <= files
    assert "memfd:bertsmith" not in Path("/proc/self/maps").read_text()


@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_ahead_are_the_batches_in_any_order(
    num_workers: int, store: TokenStore, tokenizer: Tokenizer
) -> None:
    batches = make_batches(store, tokenizer)
    with BatchesAhead(batches.batch, pin_memory=False, num_workers=num_workers) as made:
        far = wait_until_up(made, num_workers)
        for step in (0, 1, 2, 7, 3, 3, 100, 101, far, far + 1, 12, 10**9, *range(20, 30)):
            assert_same(made.batch(step), batches.batch(step))


@pytest.mark.usefixtures("_nothing_left")
def test_whatever_holds_arrays_comes_out_equal() -> None:
    with BatchesAhead(of_all_kinds, pin_memory=False, num_workers=1) as made:
        first = wait_until_up(made, 1)
        kept = {number: made.batch(number) for number in range(first, first + 9)}
        makers = {made._workers[0].process.pid}
    for number, found in kept.items():  # which no later batch has written over
        assert {found.pop("process")} == makers
        expected = of_all_kinds(number)
        del expected["process"]
        assert_same(found, expected)
        assert found["the same again"] is found["text"][1]["nested"][1]


def test_what_a_thread_cannot_make_is_raised_where_it_is_asked_for() -> None:
    with BatchesAhead(Maker(os.getpid(), np.arange(3)), pin_memory=False, num_workers=0) as made:
        with pytest.raises(DataError, match=r"^no batch 13$"):
            made.batch(13)
        with pytest.raises(TwoWordsError, match=r"^no batch 14$"):
            made.batch(14)
        assert made.batch(15)[0] == 15


def test_processes_raise_what_goes_wrong_share_no_memory_and_hear_no_signal() -> None:
    make = Maker(os.getpid(), np.zeros(3, dtype=np.int64))
    with BatchesAhead(make, pin_memory=False, num_workers=2) as made:
        first = wait_until_up(made, 2)
        for one in made._workers:
            for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGHUP"):
                one.process.send_signal(getattr(signal, name))
        for _ in range(3):
            with pytest.raises(DataError, match=r"^no batch 13$"):
                made.batch(13)
        with pytest.raises(RuntimeError, match="TwoWordsError: no batch 14"):  # cannot be sent
            made.batch(14)
        last: dict[int, int] = {}
        for number in range(first, first + 60):
            _, process, table = made.batch(number)
            count = int(table[0])  # of what the process made
            assert count == last.get(process, count - 1) + 1
            last[process] = count
        assert set(last) <= {one.process.pid for one in made._workers}
        assert made._num_up == 2


@pytest.mark.usefixtures("_nothing_left")
def test_a_process_that_dies_is_told_of_and_done_without() -> None:
    make = Maker(os.getpid(), np.arange(3), deadly=frozenset({9_000_003, 9_000_030}))
    with BatchesAhead(make, pin_memory=False, num_workers=2) as made:
        wait_until_up(made, 2)
        with pytest.warns(UserWarning, match=r"was ended by SIGKILL \(out of memory\?\)"):
            assert [made.batch(number)[0] for number in range(9_000_000, 9_000_006)] == [
                *range(9_000_000, 9_000_006)
            ]
        until(made, lambda: made._num_up == 1)
        with pytest.warns(UserWarning, match="SIGKILL"):
            for number in range(9_000_006, 9_000_050):  # and the last one
                assert made.batch(number)[0] == number
        until(made, lambda: made._num_up == 0)
        assert [made.batch(number)[1] for number in (60, 61)] == [os.getpid()] * 2


@pytest.mark.usefixtures("_nothing_left")
@pytest.mark.parametrize(
    ("executable", "message"),
    [
        (sys.executable, r"cannot begin \(ValueError: not here\): going on without"),
        ("/nowhere/python", r"cannot be started \(.*/nowhere/python"),
    ],
)
def test_processes_that_cannot_begin_are_done_without(
    executable: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    make = OnlyAtHome(os.getpid())
    with (
        BatchesAhead(make, pin_memory=False, num_workers=1) as made,
        pytest.warns(UserWarning, match=message),
    ):
        made.wait_for_workers()
        assert [made.batch(number) for number in (7, 8)] == [7, 8]


@pytest.mark.usefixtures("_nothing_left")
def test_nothing_is_left_of_batches_that_are_left_early() -> None:
    make = Maker(os.getpid(), np.zeros(10**6))
    with pytest.raises(KeyError), BatchesAhead(make, pin_memory=False, num_workers=2) as made:
        made.batch(0)
        raise KeyError
    with BatchesAhead(make, pin_memory=False, num_workers=2):
        pass


def test_processes_end_with_the_one_that_asks() -> None:
    code = (
        "import os, signal, numpy, bertsmith.data.ahead as a; from tests.makers import Maker\n"
        "made = a.BatchesAhead(Maker(os.getpid(), numpy.zeros(3)), pin_memory=False, num_workers=1)"
        "\nmade.wait_for_workers()\n"
        "print(*(one.process.pid for one in made._workers), flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as asks:
        assert asks.stdout is not None
        workers = [psutil.Process(int(number)) for number in asks.stdout.readline().split()]
        asks.kill()
    assert len(workers) == 1
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_a_script_may_leave_without_closing() -> None:
    code = (
        "import bertsmith.data.ahead as a; from tests.makers import of_all_kinds\n"
        "made = a.BatchesAhead(of_all_kinds, pin_memory=False, num_workers=1)\n"
        "print(made.batch(3)['number'])\n"  # runs once: no process runs the script again
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_batches_of_a_store_are_sent_by_the_names_of_files(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examples, "_MOST_IN_MEMORY", 0)
    folder = prepare_store(
        PreparationConfig(corpus=(str(text_file),), min_frequency=1), tmp_path / "store"
    )
    store = folder.split("train")
    tokenizer = folder.tokenizer(32)
    for settings in (DataConfig(max_length=32), DataConfig(objective="mlm", max_length=16)):
        drawing = make_drawing(store, settings, seed=1)
        assert len(pickle.dumps(drawing._examples)) < 1000  # type: ignore[attr-defined]
        store.shard(0)
        sent = pickle.dumps(drawing)
        assert store.shard(0).ids.tobytes() not in sent
        again = pickle.loads(sent)
        numbers, epoch = np.arange(drawing.num_examples), np.zeros(drawing.num_examples, np.int64)
        assert_same(vars(again.draw(numbers, epoch)), vars(drawing.draw(numbers, epoch)))
        batches = make_batches(store, tokenizer, objective=settings.objective, max_length=16)
        assert_same(pickle.loads(pickle.dumps(batches)).batch(3), batches.batch(3))


@pytest.mark.parametrize(
    ("processors", "ranks", "workers"),
    [(1, 1, 0), (2, 1, 0), (3, 1, 2), (4, 1, 3), (16, 1, 8), (16, 4, 3), (16, 8, 0), (128, 8, 8)],
)
def test_processes_are_shared_out_to_the_ranks(
    processors: int, ranks: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ahead, "num_processors", lambda: processors)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
    assert usual_num_workers() == workers
    monkeypatch.delattr(os, "memfd_create")
    assert usual_num_workers() == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_gpu_copies_on_its_own(num_workers: int, store: TokenStore, tokenizer: Tokenizer) -> None:
    batches = make_batches(store, tokenizer)
    with BatchesAhead(batches.batch, pin_memory=True, num_workers=num_workers) as made:
        first = wait_until_up(made, num_workers)
        there = []
        for step in range(first, first + 50):
            batch = made.batch(step)
            assert batch.input_ids.is_pinned()
            assert batch.masked_labels.is_pinned()
            there.append(batch.to(torch.device("cuda")))
            del batch
    for step, found in zip(range(first, first + 50), there, strict=True):
        assert_same(found.to(torch.device("cpu")), batches.batch(step))
