"""The folder of a run: taken once, filled, never shared.

config.toml      all that repeats the run       metrics.jsonl    one object a logged step
corpus.json      what was read, kept, dropped   curves.png/.svg  both losses over the steps
checkpoints/     by step                        model/           the last one
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from bertsmith.errors import RunError
from bertsmith.model.locate import CHECKPOINTS_FOLDER, MODEL_FOLDER, RUN_CONFIG_FILE
from bertsmith.report.metrics_file import METRICS_FILE

CORPUS_FILE = "corpus.json"
LOCK_FILE = ".lock"

_WRITTEN_BY_A_RUN = {
    *(RUN_CONFIG_FILE, CORPUS_FILE, METRICS_FILE, "curves.png", "curves.svg"),
    *(CHECKPOINTS_FOLDER, MODEL_FOLDER),
}


class RunFolder:
    """A claim on a folder, made before the work starts so that a clash is told at once.

    A lock is held from then to `release`; the system drops it if the process dies.

    Args:
        path: a new or empty folder, or, with `overwrite`, one that holds a run and nothing else.
        overwrite: whether a run that is there may be replaced; nothing is removed before `begin`.

    Raises:
        RunError: the folder is in use, is something else than a run, or cannot be made.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        try:
            if path.exists() and not path.is_dir():
                raise RunError(f"The output {path} must be a folder; it is a file.")
            self._is_new = not path.exists()
            path.mkdir(parents=True, exist_ok=True)
            self._check_entries(overwrite)
            self._lock = FileLock(path / LOCK_FILE, timeout=0)
            self._lock.acquire()
        except Timeout as error:
            raise RunError(
                f"The output folder {path} is in use by another process; name another."
            ) from error
        except OSError as error:
            raise RunError(f"Cannot make the folder {path}: {error.strerror}.") from error

    def _check_entries(self, overwrite: bool) -> None:
        """Refuse what is not a run's; only names that a run writes are ever removed."""
        entries = _entries(self.path)
        strange = sorted(name for name in entries if name not in _WRITTEN_BY_A_RUN)
        if strange or (entries and not {RUN_CONFIG_FILE, CORPUS_FILE} <= entries):
            found = f" ({', '.join(strange[:3])})" if strange else ""
            raise RunError(
                f"The output folder {self.path} must be empty or a run; it has other files{found}."
            )
        if entries and not overwrite:
            raise RunError(
                f"The output folder {self.path} already holds a run; name another with --output, "
                "or replace it with --overwrite."
            )

    def begin(self, config_toml: str, corpus_json: str) -> None:
        """Remove the run that is to be replaced; write the files that describe the new one."""
        for name in _entries(self.path):
            entry = self.path / name
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
        (self.path / RUN_CONFIG_FILE).write_text(config_toml, encoding="utf-8")
        (self.path / CORPUS_FILE).write_text(corpus_json, encoding="utf-8")

    def release(self) -> None:
        """Let others have the folder, and remove it if it was made and nothing was begun in it."""
        (self.path / LOCK_FILE).unlink(missing_ok=True)
        self._lock.release()
        if self._is_new and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


def _entries(path: Path) -> set[str]:
    """Names in the folder, without the lock and what a killed run left half-written."""
    hidden = (LOCK_FILE, ".curves.part.png", ".curves.part.svg", f".{MODEL_FOLDER}.part")
    return {entry.name for entry in path.iterdir()} - set(hidden)


def default_output(corpus: Sequence[str], preset: str) -> Path:
    """A fresh folder under `runs/`, named by what is trained, and when."""
    name = "-".join(Path(part).stem or "corpus" for part in corpus)[:40]
    return Path("runs") / f"{name}-{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
