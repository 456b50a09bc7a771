"""The two sides of the comparison, and how each runs the commands of a case."""

from __future__ import annotations

import asyncio
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.same.cases import CASES, Command

STDERR_LINES = 8
"""How many of its last lines are shown where a command fails."""
SECONDS_TO_STOP = 20.0
"""Between the SIGTERM and the SIGKILL that processes get where the comparison is interrupted."""

_SECONDS_BETWEEN_LOOKS = 0.005


class CaseError(Exception):
    """A case that cannot be compared, and why."""


@dataclass(frozen=True)
class Side:
    """One of the two checkouts.

    Args:
        name: as it is shown.
        root: the folder that has the package.
        work: where its cases run.
    """

    name: str
    root: Path
    work: Path

    def files(self, case: str) -> Path:
        """The folder that a case runs in."""
        return self.work / case / "files"

    def environment(self, case: str) -> dict[str, str]:
        """Of the processes of a case."""
        return {
            **os.environ,
            "PYTHONPATH": str(self.root),
            "BERTSMITH_CACHE": str(self.work / case / "cache"),
            "OMP_NUM_THREADS": "1",
            # A file that is changed within a second, and as long as before, has a stale .pyc.
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def check_out(repository: Path, revision: str, folder: Path) -> str:
    """Write the files of a revision; the repository itself is left as it is.

    Returns:
        The hash of its commit.

    Raises:
        SystemExit: git knows no such revision.
    """
    git = ["git", "-C", str(repository)]
    parse = [*git, "rev-parse", "--verify", f"{revision}^{{commit}}"]
    parsed = subprocess.run(parse, capture_output=True, text=True, check=False)
    if parsed.returncode:
        raise SystemExit(f"{revision!r} must be a revision of {repository}: {parsed.stderr}")
    commit = parsed.stdout.strip()
    archive = subprocess.run(
        [*git, "archive", "--format=zip", commit], stdout=subprocess.PIPE, check=True
    )
    with zipfile.ZipFile(io.BytesIO(archive.stdout)) as files:
        files.extractall(folder)
    return commit


def check_import(side: Side) -> None:
    """Raise `SystemExit` unless a side's processes import its own package."""
    where = "from importlib.util import find_spec; print(find_spec('bertsmith').origin)"
    done = subprocess.run(
        [sys.executable, "-c", where],
        cwd=side.root.parent,
        env=side.environment("none"),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    if not Path(done.stdout.strip()).resolve().is_relative_to(side.root.resolve()):
        raise SystemExit(f"{side.name} must import bertsmith from {side.root}; got {done.stdout}")


async def run_case(name: str, side: Side) -> str | None:
    """Run the commands of a case on a side.

    Returns:
        Why one failed, in several lines; None if none did.
    """
    side.files(name).mkdir(parents=True)
    for command in CASES[name].commands:
        try:
            await _run(command, name, side)
        except CaseError as error:
            return f"{side.name}: `bertsmith {' '.join(command.arguments)}` {error}"
    return None


async def _run(command: Command, case: str, side: Side) -> None:
    async with _begun(command, case, side) as process:
        if command.is_killed and await _kill(process, side.files(case) / "run"):
            return
        status = await process.wait()
    if status:
        unknown = _unknown_flags(command, case, side)
        if unknown:
            raise CaseError(f"cannot run: this side does not know {', '.join(unknown)}")
        raise CaseError(f"failed with exit status {status}:\n{_last_lines(case, side)}")
    if command.is_killed:
        raise CaseError("ended before it was killed")


@asynccontextmanager
async def _begun(
    command: Command, case: str, side: Side
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process of a command, which is ended where what runs inside is left early."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={command.ranks}"]
    files = side.files(case)
    output = files / command.output if command.output else files.with_name("stdout")
    with output.open("wb") as stdout, files.with_name("stderr").open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(launcher if command.ranks > 1 else []),
            *("-m", "bertsmith", *command.arguments),
            cwd=files,
            env=side.environment(case),
            stdout=stdout,
            stderr=stderr,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()  # not killed: a launcher has processes of its own to end
                try:
                    await asyncio.wait_for(process.wait(), SECONDS_TO_STOP)
                except TimeoutError:
                    process.kill()
                    await process.wait()


async def _kill(process: asyncio.subprocess.Process, run: Path) -> bool:
    """Kill a process that trains after the first checkpoint; False if it ended by itself."""
    checkpoints = "checkpoints/step-*[0-9]"
    while not list(run.glob(checkpoints)):
        if process.returncode is not None:
            return False
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
    process.kill()
    await process.wait()
    for later in sorted(run.glob(checkpoints))[1:]:  # however late it was, steps are left
        shutil.rmtree(later)
    if (run / "model").exists():
        raise CaseError("had finished before it was killed; run the case again")
    return True


def _last_lines(case: str, side: Side) -> str:
    text = side.files(case).with_name("stderr").read_text(encoding="utf-8", errors="replace")
    return "\n".join(text.splitlines()[-STDERR_LINES:])


def _unknown_flags(command: Command, case: str, side: Side) -> list[str]:
    """Flags of a command that its help does not name."""
    done = subprocess.run(
        [sys.executable, "-m", "bertsmith", command.arguments[0], "--help"],
        cwd=side.files(case),
        env=side.environment(case),
        capture_output=True,
        text=True,
        check=False,
    )
    flags = [part for part in command.arguments if part.startswith("--")]
    known = set(re.findall(r"--[a-z0-9-]+", done.stdout))
    return [flag for flag in flags if flag not in known] if done.returncode == 0 else []
