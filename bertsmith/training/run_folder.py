"""The folder of a run: taken once, filled, never shared.

config.toml      all that repeats the run       metrics.jsonl    one object a logged step
corpus.json      what was read, kept, dropped   curves.png/.svg  both losses over the steps
checkpoints/     by step                        model/           the last one
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from bertsmith.config import RUN_CONFIG_FILE
from bertsmith.durable import leftovers, make_folder, remove_leftovers, write_text
from bertsmith.errors import RunError
from bertsmith.reporting.metrics_file import METRICS_FILE
from bertsmith.saved.locate import CHECKPOINTS_FOLDER, MODEL_FOLDER

CORPUS_FILE = "corpus.json"
LOCK_FILE = ".lock"

_WRITTEN_BY_A_RUN = {
    *(RUN_CONFIG_FILE, CORPUS_FILE, METRICS_FILE, "curves.png", "curves.svg"),
    *(CHECKPOINTS_FOLDER, MODEL_FOLDER),
    *("report.html", "tensorboard", "wandb"),  # of `bertsmith report` and --track
}


class RunFolder:
    """A claim on a folder, made before the work starts so that a clash is told at once.

    A lock is held from then to `release`; the system drops it if the process dies.

    Args:
        path: a new or empty folder, or one that holds a run and nothing else.
        overwrite: whether a run that is there may be replaced; nothing is removed before `begin`.
        resume: whether it may be gone on with.

    Attributes:
        has_run: whether a run was begun in it.

    Raises:
        RunError: the folder is in use, is something else than a run, or cannot be made.
    """

    def __init__(self, path: Path, *, overwrite: bool = False, resume: bool = False) -> None:
        self.path = path
        try:
            if path.exists() and not path.is_dir():
                raise RunError(f"The output {path} must be a folder; it is a file.")
            self._is_new = not path.exists()
            make_folder(path)
            self._check_entries(overwrite=overwrite, resume=resume)
            # Whoever ends the run may let it go, whichever thread that is.
            self._lock = FileLock(path / LOCK_FILE, timeout=0, thread_local=False)
            self._lock.acquire()
        except Timeout as error:
            raise RunError(
                f"The output folder {path} is in use by another process; name another."
            ) from error
        except OSError as error:
            raise RunError(f"Cannot make the folder {path}: {error.strerror}.") from error
        self.has_run = (path / CORPUS_FILE).exists()

    def _check_entries(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse what is not a run's; only names that a run writes are ever removed."""
        entries = _entries(self.path)
        if resume and {RUN_CONFIG_FILE, CORPUS_FILE} <= entries:
            return  # other files, such as a scheduler's log, are not touched
        strange = sorted(name for name in entries if name not in _WRITTEN_BY_A_RUN)
        # One that was killed in its first moment lacks the second file, but has the lock.
        has_mark = CORPUS_FILE in entries or (self.path / LOCK_FILE).exists()
        if strange or (entries and not (RUN_CONFIG_FILE in entries and has_mark)):
            if resume and CORPUS_FILE in entries:
                raise RunError(
                    f"The run {self.path} must have its {RUN_CONFIG_FILE} to go on; it has not. "
                    "Put it back, or begin anew in another folder."
                )
            found = f" ({', '.join(strange[:3])})" if strange else ""
            raise RunError(
                f"The output folder {self.path} must be empty or a run; it has other files{found}."
            )
        if resume and entries > {RUN_CONFIG_FILE}:
            raise RunError(
                f"The run {self.path} must have its {CORPUS_FILE} to go on; it has not. "
                "Put it back, or begin anew with --overwrite."
            )
        if entries and not (overwrite or resume):
            raise RunError(
                f"The output folder {self.path} already holds a run; go on with it by --resume, "
                "name another with --output, or replace it with --overwrite."
            )

    def begin(self, config_toml: str, corpus_json: str) -> None:
        """Remove the run that is to be replaced; write the files that describe the new one."""
        remove_leftovers(self.path, _WRITTEN_BY_A_RUN.__contains__)
        # What says that there is a run goes first, what says that this is ours stays to the last:
        # half of a run is taken neither for a whole one nor for something else.
        names = _entries(self.path) - {RUN_CONFIG_FILE}
        for name in sorted(names, key=lambda name: name != CORPUS_FILE):
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        write_text(self.path / RUN_CONFIG_FILE, config_toml)
        write_text(self.path / CORPUS_FILE, corpus_json)

    def go_on(self, config_toml: str) -> None:
        """Write down the settings that the run that is here goes on with."""
        remove_leftovers(self.path, _WRITTEN_BY_A_RUN.__contains__)
        write_text(self.path / RUN_CONFIG_FILE, config_toml)

    def release(self) -> None:
        """Let others have the folder, and remove it if it was made and nothing was begun in it."""
        if self._is_new and self.path.is_dir() and not _entries(self.path):
            # Nobody else waits for the lock of a folder that is about to vanish.
            with contextlib.suppress(OSError):  # what stays is an empty folder
                (self.path / LOCK_FILE).unlink(missing_ok=True)
                self.path.rmdir()
        self._lock.release()


def _entries(path: Path) -> set[str]:
    """Names in the folder, without the lock and what a killed run left half-written."""
    own = {entry.name for entry, name in leftovers(path).items() if name in _WRITTEN_BY_A_RUN}
    return {entry.name for entry in path.iterdir()} - {LOCK_FILE} - own


def default_output(corpus: Sequence[str], preset: str) -> Path:
    """A fresh folder under `runs/`, named by what is trained, and when."""
    stems = (re.sub(r"[^\w.-]", "", Path(part).stem) for part in corpus)
    name = "-".join(stem or "corpus" for stem in stems)[:40]
    return Path("runs") / f"{name}-{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
