"""The comparison of the training path with an earlier revision: what it sees, and what it leaves.

Folders are made up, and so are the commands that the sides run: no training takes part.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.same.__main__ import compare_cases, write_input
from benchmarks.same.cases import CASES, Case, Command
from benchmarks.same.compare import differences, tensor_difference
from benchmarks.same.sides import Side, check_import, check_out

Change = Callable[[Path], object]
WEIGHTS, METRICS, STATE = "model/model.safetensors", "metrics.jsonl", "training_state.json"


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Files as a run has them."""
    folder = tmp_path / "before"
    (folder / "model").mkdir(parents=True)
    weights = {"bias": torch.tensor([0.5, 1.0]), "step": torch.tensor(3.0), "w": torch.eye(3)}
    save_file(weights, folder / WEIGHTS)
    lines = [
        {"step": 1, "mlm_loss": 3.25, "seconds": 0.5, "tokens_per_second": 10.0},
        {"step": 2, "mlm_loss": None, "seconds": 0.75, "by_length": [{"loss": 1.0, "least": 1}]},
    ]
    (folder / METRICS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    state = {"spent": {"step": 2, "seconds": 0.75}, "metrics_bytes": 100}
    (folder / STATE).write_text(json.dumps(state, indent=2))
    (folder / "SHA256SUMS").write_text(f"00ff  model.safetensors\n11ff  {STATE}\n")
    (folder / "config.toml").write_text(f'steps = 2\ntokenizer = "{folder}/model"\n')
    (folder / "curves.png").write_bytes(b"\x89PNG 1")
    return folder


@pytest.fixture
def after(before: Path, tmp_path: Path) -> Path:
    """The same elsewhere."""
    folder = shutil.copytree(before, tmp_path / "after")
    replace("config.toml", str(before), str(folder))(folder)
    return folder


def replace(name: str, old: str, new: str) -> Change:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


def set_tensors(**tensors: torch.Tensor) -> Change:
    return lambda folder: save_file(load_file(folder / WEIGHTS) | tensors, folder / WEIGHTS)


def test_the_same_files_are_identical(before: Path, after: Path) -> None:
    assert differences(before, after) == []


@pytest.mark.parametrize(
    "change",
    [
        replace(METRICS, '"seconds": 0.5', '"seconds": 0.625'),
        replace(METRICS, '"tokens_per_second": 10.0', '"tokens_per_second": 9.0'),
        replace(STATE, "0.75", "0.875"),
        replace(STATE, '"metrics_bytes": 100', '"metrics_bytes": 101'),
        replace("SHA256SUMS", "11ff", "22ff"),
        lambda folder: (folder / "curves.png").write_bytes(b"\x89PNG 2"),
    ],
)
def test_times_and_what_holds_times_are_left_out(change: Change, before: Path, after: Path) -> None:
    change(after)
    assert differences(before, after) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            set_tensors(bias=torch.tensor([0.5, 1.0 + 2**-23])),
            f"{WEIGHTS}: 1 of 3 tensors differ; bias [1] was 1.0, is 1.0000001192092896; "
            "largest absolute difference 1.19e-07 (bias)",
        ),
        (
            set_tensors(step=torch.tensor(4.0), w=-torch.eye(3)),
            f"{WEIGHTS}: 2 of 3 tensors differ; step [] was 3.0, is 4.0; "
            "largest absolute difference 2 (w)",
        ),
        (
            lambda folder: save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"a": "b"}),
            f"{WEIGHTS}: the header differs",
        ),
        (
            lambda folder: (folder / WEIGHTS).write_bytes(b"cut"),
            f"{WEIGHTS}: the bytes differ, and one cannot be read",
        ),
        (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS}: gone"),
        (lambda folder: (folder / "curves.png").unlink(), "curves.png: gone"),
        (lambda folder: (folder / "more.json").touch(), "more.json: new"),
        (
            replace(METRICS, "3.25", "3.2500000000000004"),
            f"{METRICS}: line 1, mlm_loss was 3.25, is 3.2500000000000004",
        ),
        (
            replace(METRICS, '"loss": 1.0', '"loss": 1.5'),
            f"{METRICS}: line 2, by_length[0].loss was 1.0, is 1.5",
        ),
        (replace(METRICS, "null", "0.0"), f"{METRICS}: line 2, mlm_loss was null, is 0.0"),
        (
            replace(METRICS, '"step": 1, "mlm_loss": 3.25', '"mlm_loss": 3.25, "step": 1'),
            f"{METRICS}: line 1, the order of fields",
        ),
        (
            lambda folder: (folder / METRICS).write_text('{"step": 1, "mlm_loss": 3.25}\n'),
            f"{METRICS}: line 2, step was 2, is absent; 2 lines became 1",
        ),
        (replace(STATE, '"step": 2', '"step": 3'), f"{STATE}: spent.step was 2, is 3"),
        (
            replace("SHA256SUMS", "00ff", "22ff"),
            r"SHA256SUMS: line 1 was '00ff  model.safetensors\n', is '22ff",
        ),
        (
            replace("config.toml", "steps = 2", "steps = 3"),
            r"config.toml: line 1 was 'steps = 2\n', is 'steps = 3\n'",
        ),
    ],
)
def test_anything_else_is_said(change: Change, said: str, before: Path, after: Path) -> None:
    change(after)
    found = differences(before, after)
    assert len(found) == 1
    assert found[0].startswith(said)


def test_checksums_beside_a_file_that_differs_are_not_said(before: Path, after: Path) -> None:
    replace("SHA256SUMS", "00ff", "22ff")(after)
    replace("config.toml", "steps = 2", "steps = 3")(after)
    assert [line.partition(":")[0] for line in differences(before, after)] == ["config.toml"]


def test_fields_can_be_left_out(before: Path, after: Path) -> None:
    replace(STATE, '"step": 2', '"step": 3')(after)
    assert differences(before, after, ignored=frozenset({"seconds", "spent"})) == []


def test_tensors_are_compared_by_name_and_bit() -> None:
    half = torch.zeros(2, dtype=torch.bfloat16)
    nan = torch.tensor([float("nan"), 1.0])
    assert tensor_difference({"a": nan, "b": half}, {"b": half.clone(), "a": nan.clone()}) is None
    assert tensor_difference({"a": half}, {"b": half}) == "a is gone; b is new"
    assert tensor_difference({"a": half}, {"a": half.float()}) == (
        "a was bfloat16 [2], is float32 [2]"
    )
    assert tensor_difference({"a": torch.zeros(1, 2)}, {"a": torch.tensor([[0.0, -0.0]])}) == (
        "1 of 1 tensors differ; a [0, 1] was 0.0, is -0.0; largest absolute difference 0 (a)"
    )
    far = {"a": torch.ones(2), "b": torch.full((2,), 9.0)}
    found = tensor_difference(far, {"a": nan, "b": torch.ones(2)})
    assert found is not None
    assert found.endswith("largest absolute difference nan (a)")


PROGRAM = """
import os, sys, time
from pathlib import Path

command, *arguments = sys.argv[1:]
if "--help" in arguments:
    print("--seed INT   Where all follows from.")
elif command == "write":
    folder, value = arguments
    Path(folder).mkdir()
    (Path(folder) / "made.txt").write_text(f"{value}, {LEARNING_RATE}\\n")
    print(os.environ["OMP_NUM_THREADS"])
elif command == "fail":
    sys.exit("reading\\nno disk")
elif command in ("checkpoint", "late"):
    if command == "late":
        Path("run/model").mkdir(parents=True)
    for step in (1, 2):
        Path(f"run/checkpoints/step-0000000{step}").mkdir(parents=True)
    Path("../pid").write_text(str(os.getpid()))
    time.sleep(600)
"""


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Side, Side]:
    """Two packages that are called bertsmith."""
    made = []
    for name in ("old", "new"):
        package = tmp_path / name / "bertsmith"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text("LEARNING_RATE = 1\n" + PROGRAM)
        made.append(Side(name, package.parent, tmp_path / "work" / name))
    return made[0], made[1]


def compare(
    sides: tuple[Side, Side],
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
    is_killed: bool = False,
) -> bool:
    """Whether a case of one command is identical."""
    command = Command(arguments, is_killed=is_killed, output="stdout.txt")
    monkeypatch.setitem(CASES, "made-up", Case((command,)))
    return asyncio.run(compare_cases(["made-up"], *sides)) == []


def test_a_case_is_run_on_both_sides(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(sides, monkeypatch, "write", "run", "a")
    assert capsys.readouterr().out.startswith("made-up: identical (2 files, ")
    assert [(side.files("made-up") / "stdout.txt").read_text() for side in sides] == ["1\n"] * 2
    shutil.rmtree(sides[0].work.parent)
    replace("bertsmith/__main__.py", "LEARNING_RATE = 1", "LEARNING_RATE = 2")(sides[1].root)
    assert not compare(sides, monkeypatch, "write", "run", "a")
    assert capsys.readouterr().out.splitlines()[1] == (
        r"  run/made.txt: line 1 was 'a, 1\n', is 'a, 2\n'"
    )


def test_two_folders_of_a_side_must_be_alike(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = Command(("write", "whole", "a")), Command(("write", "run", "b"))
    case = Case(commands, alike=("whole", "run"))
    monkeypatch.setitem(CASES, "made-up", case)
    assert asyncio.run(compare_cases(["made-up"], *sides)) == ["made-up"]
    assert capsys.readouterr().out.splitlines()[1:] == [
        rf"  {name}, whole (was), run (is): made.txt: line 1 was 'a, 1\n', is 'b, 1\n'"
        for name in ("old", "new")
    ]


def test_a_command_that_fails_is_said_with_its_last_lines(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not compare(sides, monkeypatch, "fail", "--seed", "1")
    assert capsys.readouterr().out.splitlines()[1:] == [
        line
        for name in ("old", "new")
        for line in (
            f"  {name}: `bertsmith fail --seed 1` failed with exit status 1:",
            "    reading",
            "    no disk",
        )
    ]


def test_a_flag_that_a_side_does_not_know_is_said(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace("bertsmith/__main__.py", "--seed INT", "--seed INT --see")(sides[1].root)
    assert not compare(sides, monkeypatch, "fail", "--see", "1")
    said = capsys.readouterr().out
    assert "old: `bertsmith fail --see 1` cannot run: this side does not know --see\n" in said
    assert "new: `bertsmith fail --see 1` failed with exit status 1:\n" in said


def test_a_command_is_killed_after_its_first_checkpoint(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compare(sides, monkeypatch, "checkpoint", is_killed=True)
    for side in sides:
        checkpoints = side.files("made-up") / "run" / "checkpoints"
        assert [path.name for path in checkpoints.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("write", "run", "a"), "ended before it was killed"),
        (("fail",), "failed with exit status 1:"),
        (("late",), "had finished before it was killed; run the case again"),
    ],
)
def test_a_command_that_is_not_killed_half_way_is_said(
    arguments: tuple[str, ...],
    said: str,
    sides: tuple[Side, Side],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert not compare(sides, monkeypatch, *arguments, is_killed=True)
    assert f"  old: `bertsmith {' '.join(arguments)}` {said}\n" in capsys.readouterr().out


def test_a_comparison_that_is_interrupted_leaves_no_process(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CASES, "made-up", Case((Command(("checkpoint",)),)))
    pids = [side.files("made-up").with_name("pid") for side in sides]

    async def interrupt() -> None:
        task = asyncio.create_task(compare_cases(["made-up"], *sides))
        while not all(pid.exists() and pid.read_text() for pid in pids):
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(interrupt())
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)


def test_a_side_must_import_its_own_package(sides: tuple[Side, Side], tmp_path: Path) -> None:
    check_import(sides[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match="must import bertsmith from"):
        check_import(Side("empty", tmp_path / "empty", tmp_path))


def test_a_revision_is_checked_out_and_its_text_is_read(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    (repository / "docs" / "design").mkdir(parents=True)
    (repository / "docs" / "a.md").write_text("# A\n\nOne\nline.\n\nTwo.\n\nThree.\n")
    (repository / "docs" / "design" / "b.md").write_text("Four.\n")
    identity = ["-c", "user.name=A", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "First"]):
        subprocess.run(["git", "-C", str(repository), *command], check=True)
    (repository / "docs" / "a.md").write_text("Changed.\n")
    commit = check_out(repository, "HEAD", tmp_path / "revision")
    assert len(commit) == 40
    with pytest.raises(SystemExit, match="'no-such' must be a revision"):
        check_out(repository, "no-such", tmp_path / "other")
    write_input(tmp_path / "revision" / "docs", tmp_path / "input")
    assert (tmp_path / "input" / "text" / "a.txt").read_text().startswith("# A\n")
    tables = {
        name: [*map(json.loads, (tmp_path / "input" / f"{name}.jsonl").read_text().splitlines())]
        for name in ("train", "validation")
    }
    assert tables["validation"] == [{"text": "Three.", "label": "a"}]
    assert tables["train"][1:] == [
        {"text": "One line.", "label": "a"},
        {"text": "Two.", "label": "a"},
        {"text": "Four.", "label": "b"},
    ]
