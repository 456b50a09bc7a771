"""The settings of a run, for the command line and Python alike: what they are laid over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertsmith.config import (
    FixedSettings,
    PretrainConfig,
    given_by_store,
    named_in,
    resolve,
    settings_of_run,
)
from bertsmith.errors import RunError


@dataclass(frozen=True, kw_only=True)
class Layers:
    """What is below the settings that are asked for one by one."""

    preset: str | None
    recipe: str | None
    file: Path | None
    """A TOML file of settings."""
    given: Sequence[FixedSettings]
    """What a prepared text and a model to begin from have decided."""
    architecture: str | None = None
    """Whose settings the others are; None: that of the layers."""

    @staticmethod
    def of(
        *,
        preset: str | None = None,
        recipe: str | None = None,
        config: str | Path | None = None,
        corpus: Sequence[str] = (),
        init_from: str | None = None,
        architecture: str | None = None,
        output: Path | None = None,
        resume: bool = False,
        may_lack_corpus: bool = False,
    ) -> Layers:
        """The layers of a run.

        Args:
            preset: a name of `PRESETS`; None: see `resolve`.
            recipe: a name of `RECIPES`; None: see `resolve`.
            config: a TOML file of settings.
            corpus: names and paths; empty: those in `config`.
            init_from: the model to begin from; None: the one in `config`.
            architecture: a name of `MODEL_CONFIGS`; None: that of the layers.
            output: the folder of the run.
            resume: go on with the run in `output`: its settings are the file.
            may_lack_corpus: whether `resume` may find neither a run nor a corpus to begin one.

        Raises:
            RunError: there is no run to resume, and no corpus to begin one.
            BertsmithError: the file, the prepared text or the model cannot be read.
        """
        file, is_resumed = None if config is None else Path(config), False
        if file is None and resume and output is not None:
            file = settings_of_run(output)
            is_resumed = file is not None
            if file is None and not corpus and not may_lack_corpus:
                raise RunError(
                    f"There is no run in {output} to go on with, and no corpus to begin "
                    "one; give --corpus (in Python, `corpus`)."
                )
        in_file = named_in(file)
        given = given_by_store(corpus or in_file.corpus)
        init_from = init_from or in_file.init_from
        # A run that goes on has all of its settings, whatever became of what it began from.
        if init_from is not None and not is_resumed:
            # What reads a model takes seconds to load, and few runs begin from one.
            from bertsmith.training.initial import given_by_model

            given += given_by_model(init_from)
        return Layers(
            preset=preset, recipe=recipe, file=file, given=given, architecture=architecture
        )

    def resolve(self, settings: Mapping[str, Any] | None = None) -> PretrainConfig:
        """The settings of the layers with `settings` over them; see `bertsmith.config.resolve`."""
        own = {} if self.architecture is None else {"architecture": self.architecture}
        return resolve(
            preset=self.preset,
            recipe=self.recipe,
            file=self.file,
            given=self.given,
            overrides={**own, **(settings or {})},
        )
