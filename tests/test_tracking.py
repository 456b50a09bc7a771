"""What trackers were told, read back with each library's own reader, and trackers that fail."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith import extras
from bertsmith.errors import MissingExtraError
from bertsmith.reporting import trackers
from bertsmith.reporting.metrics_file import ROLLED_BACK, read_metrics
from bertsmith.training import tracking
from bertsmith.training.trainer import Trainer
from tests.support.runs import TINY_RUN, result_of, stopped_and_resumed, unfinish

Figures = list[tuple[int, str, float]]
NAMES = ("mlm_loss", "nsp_loss", "learning_rate", "validation_mlm_loss", "tokens_per_second")


@pytest.fixture(autouse=True, scope="module")
def _of_these_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What trackers keep beside a run; Trackio reads where when it is imported."""
    home = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(home))
        patch.setenv("WANDB_MODE", "offline")
        for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
            patch.setenv(name, str(home))
        yield


def of_tensorboard(run: Path) -> tuple[Figures, list[str], str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = EventAccumulator(str(run / "tensorboard"))
        found.Reload()
    rows = [
        (one.step, name, one.value)
        for name in NAMES
        if name in found.Tags()["scalars"]
        for one in found.Scalars(name)
    ]
    texts = {
        name: found.Tensors(name)[0].tensor_proto.string_val[0].decode()
        for name in ("settings/text_summary", "fills/text_summary")
    }
    return rows, texts["settings/text_summary"].splitlines(), texts["fills/text_summary"]


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of an offline run: LevelDB's log format behind seven bytes.

    The library has no reader of its own any more; what is in a record its own classes read.
    """
    content, place, parts = path.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while place + 7 <= len(content):
        if (room := 2**15 - place % 2**15) < 7:  # no record begins in the end of a block
            place += room
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def of_wandb(run: Path) -> tuple[Figures, list[str], str]:
    from wandb.proto import wandb_internal_pb2

    (path,) = (run / "wandb").glob("offline-run-*/run-*.wandb")
    rows: Figures = []
    settings, fills = [], ""
    for data in wandb_records(path):
        record: Any = vars(wandb_internal_pb2)["Record"]()
        record.ParseFromString(data)
        for item in record.run.config.update:
            settings.append(f"| {item.key} | {json.loads(item.value_json)} |")
        values = {
            (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
            for item in record.history.item
        }
        step = values.get("_step", record.history.step.num)
        rows += [(int(step), name, values[name]) for name in NAMES if name in values]
        if any(name.startswith("fills") for name in values):
            (page,) = path.parent.glob("files/media/html/fills_*.html")
            fills = page.read_text(encoding="utf-8")
    return rows, settings, fills


def of_trackio(run: Path) -> tuple[Figures, list[str], str]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    runs = trackio.Api().runs("bertsmith")
    (found,) = [one for one in runs if (one.config or {})["run_folder"] == str(run)]
    logs = SQLiteStorage.get_logs("bertsmith", found.name, run_id=found.id)
    rows = [(line["step"], name, line[name]) for line in logs for name in NAMES if name in line]
    settings = [f"| {name} | {value} |" for name, value in (found.config or {}).items()]
    fills = next(line["fills"] for line in logs if "fills" in line)
    return rows, settings, str(fills)


READERS: dict[str, Callable[[Path], tuple[Figures, list[str], str]]] = {
    "tensorboard": of_tensorboard,
    "wandb": of_wandb,
    "trackio": of_trackio,
}


def of_metrics(run: Path) -> Figures:
    return [
        (line["step"], name, line[name])
        for line in read_metrics(run)
        for name in NAMES
        if name in line
    ]


def assert_agree(kind: str, run: Path) -> None:
    """Each figure of metrics.jsonl is there, and no other one."""
    rows, settings, fills = READERS[kind](run)
    expected = of_metrics(run)
    assert len(expected) > 10

    if kind == "wandb":  # of one step it keeps the last value of a name
        expected = list({(step, name): (step, name, v) for step, name, v in expected}.values())
        rows = list({(step, name): (step, name, v) for step, name, v in rows}.values())
    rows, expected = sorted(rows), sorted(expected)
    assert [row[:2] for row in rows] == [row[:2] for row in expected]
    assert [row[2] for row in rows] == pytest.approx([row[2] for row in expected], rel=1e-6)
    assert "| hidden_size | 16 |" in settings
    assert "(right)" in fills or "(wrong)" in fills


@pytest.mark.parametrize(
    "kind",
    [
        "tensorboard",
        pytest.param("wandb", marks=pytest.mark.slow),
        pytest.param("trackio", marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_agrees_with_its_metrics(
    kind: str, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(kind)
    settings: dict[str, Any] = {**TINY_RUN, "steps": 6, "validate_every": 2, "checkpoint_every": 2}
    stopped_and_resumed(text_file, tmp_path / "run", monkeypatch, track=(kind,), **settings)
    assert_agree(kind, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(READERS))
def test_a_run_that_went_back_agrees_with_its_metrics(
    kind: str, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(kind)
    plain, spoilt = Trainer._train_one_step, [False]

    def spoiling(trainer: Trainer, *args: Any) -> None:
        if trainer.progress.spent.step == 4 and not spoilt[0]:
            spoilt[0] = True
            for parameter in trainer.model.parameters():
                parameter.data.fill_(float("nan"))
        plain(trainer, *args)

    monkeypatch.setattr(Trainer, "_train_one_step", spoiling)
    settings: dict[str, Any] = {**TINY_RUN, "steps": 8, "validate_every": 2, "checkpoint_every": 2}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bertsmith.pretrain(
            text_file, output=tmp_path / "run", quiet=True, track=(kind,), **settings
        )
    assert any(ROLLED_BACK in line for line in read_metrics(tmp_path / "run"))
    assert_agree(kind, tmp_path / "run")


BROKEN = {
    "fails at once": "raise RuntimeError('no account')",
    "hangs at the end": "self.finish = lambda: __import__('time').sleep(1000)",
    "is killed": "__import__('os').kill(__import__('os').getpid(), 9)",
}


@pytest.mark.parametrize(
    "what",
    ["fails at once", "is killed", pytest.param("hangs at the end", marks=pytest.mark.slow)],
)
def test_a_tracker_that_fails_changes_nothing_but_a_line(
    what: str,
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tracking, "_SECONDS_TO_END", 2.0)
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import sys\n"
        "from bertsmith.reporting import trackers\n"
        "def begin(self, settings):\n"
        f"    {BROKEN[what]}\n"
        "trackers.TensorBoard.begin = begin\n"
        "trackers.TensorBoard.log = trackers.TensorBoard.text = lambda *_: None\n"
        "trackers.main(*sys.argv[1:])\n"
    )
    plain = subprocess.Popen

    def begun(command: list[str], **how: Any) -> Any:
        return plain([sys.executable, str(broken), *command[3:]], **how)

    monkeypatch.setattr(subprocess, "Popen", begun)
    settings = {**TINY_RUN, "steps": 6}
    run = bertsmith.pretrain(text_file, output=tmp_path / "run", track=("tensorboard",), **settings)
    said = " ".join(capfd.readouterr().err.split())
    assert said.count("The tracker tensorboard gets no more figures") == 1
    if what == "fails at once":
        assert "RuntimeError: no account" in said
    other = bertsmith.pretrain(text_file, output=tmp_path / "other", quiet=True, **settings)
    assert result_of(run.output) == result_of(other.output)


@pytest.mark.slow
def test_a_long_history_and_examples_that_fail_cost_no_tracker(
    text_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def failing(*_: Any) -> Any:
        raise RuntimeError("no memory")

    monkeypatch.setattr(tracking, "_MOST_WAITING", 30)
    monkeypatch.setattr("bertsmith.training.pretrain.fills", failing)
    settings: dict[str, Any] = {**TINY_RUN, "steps": 40, "log_every": 1}
    run = bertsmith.pretrain(text_file, output=tmp_path / "run", **settings).output
    unfinish(run)
    run = bertsmith.pretrain(output=run, resume=True, track=("tensorboard",)).output
    assert "gets no examples: no memory" in " ".join(capfd.readouterr().err.split())
    assert read_metrics(run)[-1]["finished"]
    assert list((run / "tensorboard").iterdir())


def test_a_tracker_that_is_not_there_is_said_before_anything(
    text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(extras.EXTRAS, "wandb", ("no_such_module",))
    with pytest.raises(MissingExtraError, match=r"--track wandb needs the extra `wandb`"):
        bertsmith.pretrain(
            text_file, output=tmp_path / "run", track=("wandb",), quiet=True, **TINY_RUN
        )
    assert not (tmp_path / "run").exists()
    assert set(trackers.TRACKERS) == {"tensorboard", "wandb", "trackio"}
