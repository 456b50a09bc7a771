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

from bertsmith.errors import RunError
from bertsmith.model.locate import RUN_CONFIG_FILE

CORPUS_FILE = "corpus.json"


class RunFolder:
    """A claim on a folder, made before the work starts so that a clash is told at once.

    Args:
        path: a new or empty folder, or, with `overwrite`, one that holds a run.
        overwrite: whether a run that is there may be replaced; nothing is removed before `begin`.

    Raises:
        RunError: the folder is in use, is something else than a run, or cannot be made.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self.path = path
        self._is_new = not path.exists()
        if path.exists() and not path.is_dir():
            raise RunError(f"The output {path} must be a folder; it is a file.")
        self._is_used = not self._is_new and any(path.iterdir())
        if self._is_used and not (path / RUN_CONFIG_FILE).is_file():
            raise RunError(
                f"The output folder {path} must be empty or a run; it holds other files."
            )
        if self._is_used and not overwrite:
            raise RunError(
                f"The output folder {path} already holds a run; name another with --output, or "
                "replace it with --overwrite."
            )
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"Cannot make the folder {path}: {error.strerror}.") from error

    def begin(self, config_toml: str, corpus_json: str) -> None:
        """Remove the run to be replaced; write the two files that describe the new one."""
        if self._is_used:
            for entry in self.path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
        (self.path / RUN_CONFIG_FILE).write_text(config_toml, encoding="utf-8")
        (self.path / CORPUS_FILE).write_text(corpus_json, encoding="utf-8")

    def release(self) -> None:
        """Give up a folder in which nothing was begun."""
        if self._is_new and self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


def default_output(corpus: Sequence[str], preset: str) -> Path:
    """A fresh folder under `runs/`, named by what is trained, and when."""
    name = "-".join(Path(part).stem or "corpus" for part in corpus)[:40]
    return Path("runs") / f"{name}-{preset}-{time.strftime('%Y%m%d-%H%M%S')}"
