"""metrics.jsonl of a run: one object a line, each with its `step`.

Training lines have `mlm_loss`, `nsp_loss`, `learning_rate`, `grad_norm` and the throughput, as
means over the steps since the line before; validation lines have `validation_…`; the last line of a
finished run has `finished: true` and the run's closing figures.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, Self

METRICS_FILE = "metrics.jsonl"


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; a last line that is still being written is left out."""
    path = run / METRICS_FILE
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


class MetricsFile:
    """Writes the lines; each is handed to the system as a whole."""

    def __init__(self, run: Path) -> None:
        self._stream = (run / METRICS_FILE).open("a", encoding="utf-8", buffering=1)

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """Add a line."""
        self._stream.write(json.dumps({"step": step, **figures}, allow_nan=False) + "\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.close()
