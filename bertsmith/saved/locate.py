"""Where models lie: the names inside a run's folder, and which folder a user's path means."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from bertsmith.config import RUN_CONFIG_FILE
from bertsmith.errors import BertsmithError, ModelError
from bertsmith.saved.hub import fetched, is_hub_name
from bertsmith.saved.hugging_face import CONFIG_FILE, read_json

MODEL_FOLDER = "model"
CHECKPOINTS_FOLDER = "checkpoints"

_METRICS_FILE = "metrics.jsonl"  # as `bertsmith.reporting` writes it
_LARGEST_SETTINGS = 2**20  # bytes
_MOST_READINGS = 10

_T = TypeVar("_T")

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

    Of a name on the Hugging Face Hub (`hf:owner/name`): its folder in the cache, maybe fetched.

    Raises:
        ModelError: `path` is none of these.
    """
    if is_hub_name(path):
        return fetched(str(path))
    try:
        exists = path.exists()
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from error
    if not exists:
        raise ModelError(f"There is no run and no model folder {path}.")
    for _ in range(_MOST_READINGS):
        checkpoints = list_checkpoints(path)
        for folder in (path, path / MODEL_FOLDER, *reversed(checkpoints)):
            if (folder / CONFIG_FILE).is_file():
                return folder
        if list_checkpoints(path) == checkpoints:  # else the run removed them meanwhile
            break
    if (path / RUN_CONFIG_FILE).is_file():
        raise ModelError(f"The run {path} has no model yet: it ended before its first checkpoint.")
    raise ModelError(
        f"{path} must be a run, one of its checkpoints, a Hugging Face folder (with "
        f"{CONFIG_FILE}), or hf:owner/name; it is none of them."
    )


def read_newest(path: Path, read: Callable[[Path], _T]) -> _T:
    """What `read` makes of the Hugging Face folder that `path` means.

    A run that goes on removes old checkpoints, and puts its model in the place of the one before:
    where that happened under the reader, the newest one is read instead.

    Args:
        path: as `find_model` takes it.
        read: given the folder; what it raises counts if the folder is still the same.

    Raises:
        ModelError: `path` means no model.
    """
    for _ in range(_MOST_READINGS):
        folder = find_model(path)
        before = _identity(folder)
        try:
            return read(folder)
        except (BertsmithError, OSError):
            if before is not None and _identity(folder) == before:
                raise
    return read(find_model(path))


def _identity(folder: Path) -> tuple[int, int] | None:
    """Which folder it is, whatever has its name later; None: it is gone."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def find_run_config(path: Path) -> Path | None:
    """The config.toml of the run that `path` is or lies in (as its model, as a checkpoint).

    What is in the folders decides, not what they are called: a run may be called `model`, and lie
    among others in a folder `checkpoints`.
    """
    if is_hub_name(path):
        return None
    for here in dict.fromkeys((path.absolute(), path.resolve())):
        for folder in (here, *here.parents[:2]):
            settings = _settings_of_run(folder)
            if settings is not None and (folder == here or _is_of(here, settings)):
                return folder / RUN_CONFIG_FILE
    return None


def _settings_of_run(folder: Path) -> dict[str, Any] | None:
    """What the config.toml of a run holds; empty if it is damaged; None: it is not a run's."""
    file = folder / RUN_CONFIG_FILE
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            found = tomllib.loads(stream.read(_LARGEST_SETTINGS).decode("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {} if (folder / _METRICS_FILE).is_file() else None  # whoever reads it says so
    return found if isinstance(found.get("preset"), str) else None


def _is_of(folder: Path, settings: dict[str, Any]) -> bool:
    """Whether the model in `folder` has the shape that a run's settings say."""
    if not (folder / CONFIG_FILE).is_file():
        return False
    shape = settings.get("model")
    if not isinstance(shape, dict):
        return True
    found = read_json(folder / CONFIG_FILE)
    return all(found.get(name, value) == value for name, value in shape.items())
