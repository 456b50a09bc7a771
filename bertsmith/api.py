"""The Python interface: what `import bertsmith` gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from bertsmith.config import (
    FinetuneConfig,
    LabelledConfig,
    ProbeConfig,
    begins_from,
    given_by_store,
    near,
    resolve,
    settings_of_run,
)
from bertsmith.errors import ConfigError, RunError

if TYPE_CHECKING:
    from bertsmith.evaluation.held_out import Evaluation
    from bertsmith.finetuning.finetune import Finetuned
    from bertsmith.inference.model import PretrainedModel
    from bertsmith.training.pretrain import Run

# What does the work is imported inside the functions: torch takes seconds to load, and
# `import bertsmith` or `bertsmith --help` should not wait for it.


def pretrain(
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    preset: str | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Pretrain a BERT on a text.

    Args:
        corpus: a corpus by name, a path, or several of either; default: the config's, else
            wikitext-2.
        preset: textbook, tiny, mini, small, medium, base or large; default: textbook.
        recipe: default or chapter.
        config: a TOML file of settings, such as the config.toml of another run.
        output: the run's folder; default: a fresh one under `runs/`.
        overwrite: replace a run that is in `output`.
        resume: go on with the run that is in `output`, with its settings but for the budget and
            how it runs; where there is none, begin one with `corpus`.
        quiet: show no progress.
        settings: any field of `ModelConfig`, `DataConfig` and `TrainingConfig`, by name.

    Returns:
        The finished run: `output`, `metrics`, `sentence_pairs_per_second`.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
        RunStopped: a signal (an interrupt, SIGTERM, SIGUSR1) came; a checkpoint is written.
    """
    from bertsmith.training.initial import given_by_model
    from bertsmith.training.pretrain import run_pretraining

    if corpus is not None:
        parts = (corpus,) if isinstance(corpus, str | Path) else tuple(corpus)
        settings["corpus"] = tuple(str(part) for part in parts)
    resumes = False
    if config is None and resume and output is not None:
        config = settings_of_run(Path(output))
        resumes = config is not None  # all is settled in it, whatever became of what it began from
        if config is None and corpus is None:
            raise RunError(
                f"There is no run in {output} to go on with, and no corpus to begin one."
            )
    given = given_by_store(settings.get("corpus", ()))
    if settings.get("init_from") is not None:
        settings["init_from"] = str(settings["init_from"])
    init_from = settings.get("init_from")
    if init_from is None and config is not None:
        init_from = begins_from(Path(config))
    if not resumes:
        given += given_by_model(init_from)
    return run_pretraining(
        resolve(
            preset=preset,
            recipe=recipe,
            file=config,
            given=given,
            overrides=settings,
        ),
        output=None if output is None else Path(output),
        overwrite=overwrite,
        resume=resume,
        quiet=quiet,
    )


def prepare(
    corpus: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    preset: str | None = None,
    processes: int | None = None,
    engine: Literal["local", "ray"] = "local",
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Path:
    """Turn a text into a token store that any number of runs train on.

    Args:
        corpus: as in `pretrain`.
        output: the store's folder, which `pretrain` takes for a corpus.
        preset: whose kind of vocabulary; default: textbook, of words.
        processes: of this machine; default: one a processor.
        engine: processes of this machine, or a Ray cluster.
        overwrite: replace a store that is in `output`.
        quiet: show no progress.
        settings: any field of `PreparationConfig`, by name.

    Returns:
        The store's folder.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.display import Display
    from bertsmith.preparation import prepare_store

    parts = (corpus,) if isinstance(corpus, str | Path) else tuple(corpus)
    settings["corpus"] = tuple(str(part) for part in parts)
    return prepare_store(
        resolve(preset=preset, overrides=settings).preparation,
        Path(output),
        overwrite=overwrite,
        engine=engine,
        processes=processes,
        display=Display(quiet=quiet),
    ).path


def load(path: str | Path, *, device: str = "auto") -> PretrainedModel:
    """A trained model: from a run's folder, one of its checkpoints, or a Hugging Face BERT folder.

    Raises:
        BertsmithError: there is no whole model, or the device is not on this machine.
    """
    from bertsmith.inference.model import load as load_model

    return load_model(path, device=device)


def evaluate(
    path: str | Path,
    *,
    corpus: str | Path | Sequence[str | Path] | None = None,
    split: str = "validation",
    num_sentences: int = 0,
    objective: Literal["mlm+nsp", "mlm"] | None = None,
    pairing: Literal["adjacent", "filled"] | None = None,
    max_length: int | None = None,
    device: str = "auto",
) -> Evaluation:
    """Losses and accuracies of a trained model on held-out pairs with fixed masks of 15 %.

    Args:
        path: as in `load`.
        corpus: as in `pretrain`; default: the one the run was trained on.
        split: train, validation or test.
        num_sentences: whose pseudo-perplexity is taken as well; 0: none.
        objective, pairing, max_length: of the examples; default: as in the run's training. Models
            with one tokenizer meet the same masks if these are the same.
        device: auto, cpu, cuda or mps.

    Raises:
        BertsmithError: there is no such model, corpus or split.
    """
    from bertsmith.evaluation.of_folder import evaluate_folder

    parts = (corpus,) if isinstance(corpus, str | Path) else corpus
    names = None if parts is None else [str(part) for part in parts]
    return evaluate_folder(
        Path(path),
        corpus=names,
        split=split,
        num_sentences=num_sentences,
        objective=objective,
        pairing=pairing,
        max_length=max_length,
        device=device,
    )


def finetune(
    path: str | Path,
    *,
    train: str | Path,
    validation: str | Path,
    output: str | Path,
    test: str | Path | None = None,
    baseline: bool = True,
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Finetuned:
    """Train a classifier or regressor on a pretrained encoder.

    Args:
        path: as in `load`.
        train, validation: tables of labelled texts: .tsv, .csv, .jsonl, .json or .parquet.
        output: the folder to make, a Hugging Face `BertForSequenceClassification`.
        test: a table of texts to predict.
        baseline: whether the same is done from random weights.
        overwrite: replace an earlier fine-tuning in `output`.
        quiet: show no progress.
        settings: any field of `FinetuneConfig` and `LabelledConfig`, by name.

    Returns:
        `output` and `results`: of each metric mean, deviation and values over the seeds.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.display import Display
    from bertsmith.finetuning.finetune import finetune_folder

    labelled, config = _parted(settings, LabelledConfig, FinetuneConfig)
    return finetune_folder(
        Path(path),
        train=Path(train),
        validation=Path(validation),
        test=None if test is None else Path(test),
        output=Path(output),
        labelled=labelled,
        config=config,
        baseline=baseline,
        overwrite=overwrite,
        display=Display(quiet=quiet),
    )


def probe(
    path: str | Path,
    *,
    train: str | Path,
    validation: str | Path | None = None,
    baseline: bool = True,
    quiet: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Fit a linear model to the frozen vectors of a pretrained encoder, cross-validated.

    Args:
        path: as in `load`.
        train: a table of labelled texts, which is cross-validated: .tsv, .csv, .jsonl, .json or
            .parquet.
        validation: another, on which the model of all training rows is judged.
        baseline: whether the same is done with a random encoder.
        quiet: show no progress.
        settings: any field of `ProbeConfig` and `LabelledConfig`, by name.

    Returns:
        `pretrained` and `random`: of each metric mean, deviation and values over the folds.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.display import Display
    from bertsmith.finetuning.probe import probe_folder

    labelled, config = _parted(settings, LabelledConfig, ProbeConfig)
    return probe_folder(
        Path(path),
        train=Path(train),
        validation=None if validation is None else Path(validation),
        labelled=labelled,
        config=config,
        baseline=baseline,
        display=Display(quiet=quiet),
    )


_First = TypeVar("_First")
_Second = TypeVar("_Second")


def _parted(
    settings: Mapping[str, Any], first: type[_First], second: type[_Second]
) -> tuple[_First, _Second]:
    """Settings by name, each in the class that has it. Raises: `ConfigError` for unknown ones."""
    names = [{entry.name for entry in fields(cls)} for cls in (first, second)]  # type: ignore[arg-type]
    for name in settings:
        if name not in names[0] | names[1]:
            raise ConfigError(f"There is no setting `{name}`; {near(name, names[0] | names[1])}")
    parts = [{name: settings[name] for name in settings if name in own} for own in names]
    return first(**parts[0]), second(**parts[1])
