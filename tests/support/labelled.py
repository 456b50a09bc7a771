"""Labelled texts, the settings that learn them in seconds, and what stops that."""

from __future__ import annotations

import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bertsmith.training.trainer import Trainer
from tests.support.texts import WORDS

FAST: dict[str, Any] = {
    "epochs": 8,
    "learning_rate": 0.01,
    "dropout_prob": 0.0,
    "patience": 0,
    "device": "cpu",
}


def rows_of(number: int, seed: int = 0) -> list[tuple[str, str]]:
    """Texts that are about a bird, or not."""
    draw = random.Random(seed)
    rows = []
    for i in range(number):
        words = draw.choices([word for word in WORDS if word != "bird"], k=draw.randint(3, 9))
        if is_bird := i % 2 == 0:
            words.insert(draw.randint(0, len(words)), "bird")
        rows.append((" ".join(words), "yes" if is_bird else "no"))
    return rows


def write(path: Path, rows: Sequence[tuple[Any, ...]], header: str = "sentence\tlabel") -> Path:
    lines = [header, *("\t".join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def stop_after(patch: pytest.MonkeyPatch, number: int) -> None:
    """Let a signal come in the step that follows on so many."""
    plain, done = Trainer._train_one_step, [0]

    def counting(trainer: Trainer, *args: Any) -> None:
        if done[0] == number:
            trainer.stop.by = signal.SIGTERM
        done[0] += 1
        plain(trainer, *args)

    patch.setattr(Trainer, "_train_one_step", counting)
