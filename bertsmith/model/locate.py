"""Where models lie: the names inside a run's folder, and which folder a user's path means."""

from __future__ import annotations

import re
from pathlib import Path

from bertsmith.config import RUN_CONFIG_FILE
from bertsmith.errors import ModelError
from bertsmith.model.hugging_face import CONFIG_FILE

MODEL_FOLDER = "model"
CHECKPOINTS_FOLDER = "checkpoints"

_CHECKPOINT = re.compile(r"step-(\d{8,})")


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return run / CHECKPOINTS_FOLDER / f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """How many steps a checkpoint has behind it, by its name."""
    return int(checkpoint.name.removeprefix("step-"))


def is_checkpoint_name(name: str) -> bool:
    """Whether a checkpoint's folder can be called so."""
    return _CHECKPOINT.fullmatch(name) is not None


def list_checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run's folder, oldest first."""
    folder = run / CHECKPOINTS_FOLDER
    if not folder.is_dir():
        return []
    # A file, or a link that leads nowhere, is none, whatever it is called.
    found = (path for path in folder.iterdir() if is_checkpoint_name(path.name) and path.is_dir())
    return sorted(found, key=step_of)


def find_model(path: Path) -> Path:
    """The Hugging Face folder that `path` means: itself, a run's last model, its newest checkpoint.

    Raises:
        ModelError: `path` is none of these.
    """
    try:
        exists = path.exists()
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from error
    if not exists:
        raise ModelError(f"There is no run and no model folder {path}.")
    for folder in (path, path / MODEL_FOLDER, *reversed(list_checkpoints(path))):
        if (folder / CONFIG_FILE).is_file():
            return folder
    if (path / RUN_CONFIG_FILE).is_file():
        raise ModelError(f"The run {path} has no model yet: it ended before its first checkpoint.")
    raise ModelError(
        f"{path} must be a run, one of its checkpoints, or a Hugging Face BERT folder "
        f"(with {CONFIG_FILE}); it is none of them."
    )


def find_run_config(path: Path) -> Path | None:
    """The config.toml of the run that `path` is or lies in (as its model, as a checkpoint)."""
    path = path.resolve()
    run = path
    if path.name == MODEL_FOLDER:
        run = path.parent
    elif path.parent.name == CHECKPOINTS_FOLDER:
        run = path.parent.parent
    return run / RUN_CONFIG_FILE if (run / RUN_CONFIG_FILE).is_file() else None
