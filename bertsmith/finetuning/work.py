"""An unfinished fine-tuning, which lies beside its output until that is whole.

.<output>.unfinished/
    finetune.toml                  the settings, and digests of what is read
    pretrained-seed-0/
        trained.json               the figures of a training that is finished
        checkpoints/               of the one that is under way, and of the best one so far
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import tomli_w

from bertsmith.architectures import Encoder
from bertsmith.config import FinetuneConfig, LabelledConfig, SimilarityConfig, differences
from bertsmith.config.fields import rules_of
from bertsmith.durable import make_folder, write_text
from bertsmith.errors import RunError
from bertsmith.finetuning.train import Trained, Training
from bertsmith.saved.locate import CHECKPOINTS_FOLDER, checkpoint_folder, list_checkpoints

SETTINGS_FILE = "finetune.toml"
_TRAINED_FILE = "trained.json"


class Work:
    """The folder of what is unfinished.

    Args:
        output: where the whole will be.
    """

    def __init__(self, output: Path) -> None:
        output = output.resolve()
        self.path = output.with_name(f".{output.name}.unfinished")

    @property
    def is_there(self) -> bool:
        """Whether there is something to go on with."""
        return (self.path / SETTINGS_FILE).is_file()

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Make it anew, in the place of one that is there."""
        self.remove()
        make_folder(self.path)
        write_text(self.path / SETTINGS_FILE, tomli_w.dumps(settings))

    def training(self, kind: str, seed: int) -> Path:
        """The folder of a training; it may not be there."""
        return self.path / f"{kind}-seed-{seed}"

    def trained(self, kind: str, seed: int) -> Trained | None:
        """What a training came to; None: it is not finished."""
        path = self.training(kind, seed) / _TRAINED_FILE
        if not path.exists():
            return None
        try:
            return msgspec.json.decode(path.read_bytes(), type=Trained)
        except msgspec.MsgspecError as error:
            raise RunError(
                f"{path} is damaged: {error}. Begin the fine-tuning anew with --overwrite."
            ) from error

    def finish(self, kind: str, seed: int, trained: Trained) -> None:
        """Write down what a training came to."""
        text = json.dumps(asdict(trained), indent=2) + "\n"
        write_text(self.training(kind, seed) / _TRAINED_FILE, text)

    def weights(self, seed: int, trained: Trained) -> Path:
        """The checkpoint of the best moment of a training from pretrained weights."""
        return checkpoint_folder(self.training("pretrained", seed), trained.step)

    def drop_weights(self, kind: str, seed: int) -> None:
        """Remove the checkpoints of a finished training, which nothing needs any more."""
        shutil.rmtree(self.training(kind, seed) / CHECKPOINTS_FOLDER, ignore_errors=True)

    def has_progress(self) -> bool:
        """Whether any step that was made is kept."""
        # A signal may come while it is removed, after the whole is there.
        folders = list(self.path.glob("*/")) if self.path.is_dir() else []
        return any((path / _TRAINED_FILE).exists() or list_checkpoints(path) for path in folders)

    def remove(self) -> None:
        """Remove it, if it is there; what says that there is something goes first."""
        if os.path.lexists(self.path):
            (self.path / SETTINGS_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.path)


def read_settings(folder: Path) -> dict[str, Any]:
    """What `SETTINGS_FILE` in a folder holds. Raises: `RunError`."""
    path = folder / SETTINGS_FILE
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(
            f"Cannot read {path}: {error}. Begin the fine-tuning anew with --overwrite."
        ) from error


def settings_of(
    labelled: LabelledConfig, similarity: SimilarityConfig, training: Training, *, baseline: bool
) -> dict[str, Any]:
    """What a fine-tuning is of, as `SETTINGS_FILE` holds it; that of one that goes on is the same.

    Digests are of rows as the model reads them, with their labels: a table may lie elsewhere.
    """
    vectors = _without_none(asdict(similarity)) if labelled.task == "similarity" else {}
    return {
        "baseline": baseline,
        "labels": _without_none(asdict(labelled)),
        "finetuning": _without_none(asdict(training.config)),
        **({"similarity": vectors} if vectors else {}),
        "sha256": {"model": digest_of_model(training.pretrained), **training.digests()},
    }


def digest_of_model(model: Encoder) -> str:
    """Of the shape and the weights of an encoder on the host."""
    found = hashlib.sha256(msgspec.json.encode(asdict(model.config)))
    for name, value in model.state_dict().items():
        found.update(name.encode() + value.contiguous().numpy().tobytes())
    return found.hexdigest()


def refuse_other(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `RunError` if what a fine-tuning is of is not what it was.

    Args:
        before: what `read_settings` gives.
        now: what `_settings` gives.
    """
    now = tomllib.loads(tomli_w.dumps(now))  # which turns tuples into lists
    changes = differences(_fixed(before), _fixed(now))
    sums, those_now = before.get("sha256", {}), now["sha256"]
    changes += [
        f"`{name}` (another content)" for name in those_now if those_now[name] != sums.get(name)
    ]
    if changes:
        raise RunError(
            f"A fine-tuning that goes on must be what it was; got {', '.join(changes)}. Give all "
            "as before, or begin anew with --overwrite."
        )


def _fixed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that may not change, by name."""
    rules = rules_of(FinetuneConfig)
    sections = (settings.get(name, {}) for name in ("labels", "finetuning", "similarity"))
    found = {name: value for section in sections for name, value in section.items()}
    found["baseline"] = settings.get("baseline")
    return {
        name: value
        for name, value in found.items()
        if not (name in rules and rules[name].may_change)
    }


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in table.items() if value is not None}
