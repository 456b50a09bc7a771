"""What a run that is resumed was before, and what must be as it was."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from bertsmith.config import (
    BUDGETS,
    RUN_CONFIG_FILE,
    PretrainConfig,
    differences,
    reproducibility_settings,
    resolve,
)
from bertsmith.errors import RunError
from bertsmith.objectives import objective_of
from bertsmith.reporting.metrics_file import is_closing, last_metrics
from bertsmith.saved.hugging_face import WEIGHTS_FILE, read_json
from bertsmith.saved.locate import MODEL_FOLDER
from bertsmith.training.progress import Progress
from bertsmith.training.run_folder import CORPUS_FILE


@dataclass(frozen=True, kw_only=True)
class EarlierRun:
    """The run that is in a folder."""

    config: PretrainConfig
    report: dict[str, Any]
    """Of its text: corpus.json."""
    last_line: dict[str, Any]
    """Of its metrics.jsonl; empty if there is none."""
    has_model: bool
    """Whether its last model is there."""

    @classmethod
    def read(cls, run: Path) -> Self:
        """From its folder. Raises: `BertsmithError` for files that are not a run's."""
        report = read_json(run / CORPUS_FILE)
        digests = report.get("sha256")
        if not isinstance(digests, dict) or not isinstance(digests.get("train"), str):
            raise RunError(
                f"{run / CORPUS_FILE} must hold the checksums of the text that the run began with; "
                "it does not. Put it back, or begin anew with --overwrite."
            )
        return cls(
            config=resolve(file=run / RUN_CONFIG_FILE),
            report=report,
            last_line=last_metrics(run),
            has_model=(run / MODEL_FOLDER / WEIGHTS_FILE).is_file(),
        )

    @property
    def is_finished(self) -> bool:
        """Whether its budget is spent and its model is saved."""
        terms = objective_of(self.config.data.objective).terms
        return self.has_model and is_closing(self.last_line, terms)

    def has_budget_of(self, config: PretrainConfig) -> bool:
        """Whether `config` ends where it was to end."""
        return all(
            getattr(self.config.training, name) == getattr(config.training, name)
            for name in BUDGETS
        )

    def refuse_differences(self, config: PretrainConfig, progress: Progress | None = None) -> None:
        """Refuse to compute something else than before.

        Args:
            config: what is asked for.
            progress: of the checkpoint, which no hand has changed; None: config.toml counts.

        Raises:
            RunError: the fields that differ are named.
        """
        # What is missing there is a setting that came later, at whose default nothing changed.
        before = reproducibility_settings(self.config)
        if progress is not None:
            before |= progress.held
        if changes := differences(before, reproducibility_settings(config)):
            raise RunError(
                f"A resumed run must be as it was but for its budget and how it runs; got "
                f"{', '.join(changes)}. Leave these out, or begin another run."
            )
