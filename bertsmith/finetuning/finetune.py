"""Fine-tuning from files to a folder: several seeds, and the same from random weights beside.

The folder is a Hugging Face model with a sequence classifier (the best seed's), or one of
sentence-transformers, and with it:

results.json                  all figures
finetune.toml                 the settings, and digests of what was read
predictions-validation.tsv    of the best seed
predictions-test.tsv          the same, if there is a test file
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import tomli_w
import torch
from filelock import FileLock, Timeout

from bertsmith.config import FinetuneConfig, LabelledConfig, SimilarityConfig
from bertsmith.display import Display
from bertsmith.durable import make_folder, remove_leftovers, whole_folder
from bertsmith.errors import (
    BertsmithError,
    ConfigError,
    DivergenceError,
    RunError,
    RunStopped,
)
from bertsmith.extras import require
from bertsmith.finetuning.metrics import (
    spread_of,
)
from bertsmith.finetuning.rows import tokenizer_of_length
from bertsmith.finetuning.sequences import sequence_training
from bertsmith.finetuning.similarity import similarity_training
from bertsmith.finetuning.tokens import token_training
from bertsmith.finetuning.train import Files, How, Trained, Training
from bertsmith.finetuning.work import SETTINGS_FILE, Work, read_settings, refuse_other, settings_of
from bertsmith.hardware.device import (
    choose_device,
    deterministic,
    device_of_rank,
    keep_freed_memory,
    settled_precision,
)
from bertsmith.ranks import Ranks, joined, local_rank
from bertsmith.reporting.card import CARD_FILE, finetuned_card
from bertsmith.saved.hugging_face import (
    CONFIG_FILE,
    load_model,
    load_weights,
    refuse_damaged,
)
from bertsmith.saved.locate import read_newest
from bertsmith.training.checks import written_to

RESULTS_FILE = "results.json"

_KEPT = "Where training had begun, --resume goes on with it."

_Kind = str  # "pretrained" or "random": what a training begins with


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """A finished fine-tuning."""

    output: Path
    """The model's folder."""
    results: dict[str, Any] = field(repr=False)
    """What results.json holds."""


def finetune_folder(
    path: Path,
    *,
    train: Path | None = None,
    validation: Path | None = None,
    output: Path,
    test: Path | None = None,
    labelled: LabelledConfig | None = None,
    config: FinetuneConfig | None = None,
    similarity: SimilarityConfig | None = None,
    baseline: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    display: Display | None = None,
) -> Finetuned:
    """Train a classifier or regressor on the encoder in `path`, or its vectors (`task` similarity).

    Args:
        path: a run, a checkpoint, a Hugging Face folder, or hf:owner/name.
        train, validation: tables of labelled texts; see `read_labelled`. For similarity of texts
            that belong together (see `read_pairs`), or None: neighbouring sentences of the run's
            own text.
        output: the folder that is made; nothing is in it before all is done.
        test: a table of texts to predict; labels in it are not looked at.
        labelled: what the tables mean.
        config: how it is learnt.
        similarity: what vectors are, for that task.
        baseline: whether the same is done from random weights, to see what pretraining gave.
        overwrite: replace an earlier fine-tuning in `output`, or one that was not finished.
        resume: go on with one that was not finished; begin one if there is none. All else must be
            as it was.
        display: shows what goes on; default: a silent one.

    Raises:
        BertsmithError: a file, a label, a setting or the output does not suit.
        RunStopped: a signal asked for it; `resume` goes on.
    """
    require("finetune", "Fine-tuning")
    labelled, config = labelled or LabelledConfig(), config or FinetuneConfig()
    similarity = similarity or SimilarityConfig()
    if resume and overwrite:
        raise RunError("A fine-tuning is resumed or replaced; give --resume or --overwrite.")
    kind = choose_device(config.device)
    with joined(uses_cuda=kind.type == "cuda") as ranks:
        shown = (display or Display(quiet=True)) if ranks.is_first else Display(is_silent=True)
        # Set, so that one that goes on computes as before.
        precision = settled_precision(kind, config.precision, ranks)
        config = replace(config, precision=precision)
        with ranks.raising_on_all(), _warned_once(ranks):
            device = device_of_rank(kind, local_rank()) if ranks.size > 1 else kind
            _check_output(output, overwrite=overwrite, resume=resume)
            files = Files(train=train, validation=validation, test=test)
            task = labelled, similarity
            training = _training(path, files, *task, config, device, ranks, shown)
        settings = settings_of(labelled, similarity, training, baseline=baseline)
        kinds = ("pretrained", "random") if baseline else ("pretrained",)
        job = _Job(training=training, kinds=kinds, output=output, settings=settings, files=files)
        results = job.run(overwrite=overwrite, resume=resume)
    return Finetuned(output=output, results={**results, "output": str(output)})


def _training(
    path: Path,
    files: Files,
    labelled: LabelledConfig,
    similarity: SimilarityConfig,
    config: FinetuneConfig,
    device: torch.device,
    ranks: Ranks,
    display: Display,
) -> Training:
    """What is trained, and on what, held against each other."""
    folder, where = read_newest(path, lambda found: (load_model(found), found))
    how: How = {
        "tokenizer": tokenizer_of_length(folder, config),
        "config": config,
        "device": device,
        "ranks": ranks,
        "display": display,
    }
    _refuse_idle(labelled, similarity, config)
    training: Training
    if labelled.task == "similarity":
        training = similarity_training(path, folder, where, files, labelled, similarity, **how)
    elif labelled.task == "tokens":
        training = token_training(folder, files, labelled, **how)
    else:
        training = sequence_training(folder, files, labelled, **how)
    _refuse_few_rows(training)
    return training


def _refuse_idle(
    labelled: LabelledConfig, similarity: SimilarityConfig, config: FinetuneConfig
) -> None:
    """Raise `ConfigError` for a setting that changes nothing for the task."""
    task, usual = labelled.task, SimilarityConfig()
    idle = []
    if task != "similarity":
        idle = [name for name, value in vars(similarity).items() if value != getattr(usual, name)]
    elif labelled.label_names:
        idle = ["label_names"]
    if task in ("similarity", "tokens") and config.class_weights != "none":
        idle = ["class_weights"]
    if idle:
        raise ConfigError(
            f"`{idle[0]}` changes nothing where `task` is {task}; leave it out, or choose another "
            "task."
        )


def _refuse_few_rows(training: Training) -> None:
    """Raise `ConfigError` if a rank would have no row of a batch."""
    rows, size = training.batch_size, training.ranks.size
    if rows < size:
        raise ConfigError(
            f"`batch_size` must be at least one for each of the {size} ranks, and so must "
            f"the training rows; got {rows}."
        )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """All trainings of a fine-tuning; every rank does the same, and the first one alone writes."""

    training: Training
    kinds: tuple[_Kind, ...]
    output: Path
    settings: dict[str, Any]
    files: Files

    def run(self, *, overwrite: bool, resume: bool) -> dict[str, Any]:
        """Begin or go on, finish, and write the output; what results.json holds."""
        ranks, stop, device = self.training.ranks, self.training.stop, self.training.device
        lock, work = None, Work(self.output)
        if device.type == "cpu":
            keep_freed_memory()
        try:
            with ranks.raising_on_all(), written_to(self.output, _KEPT):
                if ranks.is_first:
                    lock = _locked(self.output)
                    _check_output(self.output, overwrite=overwrite, resume=resume)
                is_finished = resume and _is_finetuned(self.output) and not work.is_there
                if ranks.is_first:
                    self._make_ready(work, is_finished=is_finished, resume=resume)
            if ranks.from_first(is_finished):
                return self._earlier_results()
            with self._ending_well(work), stop.heard(), deterministic(device):
                trained = self._train_all(work)
                # What is left can be done again in a moment.
                stop.leave_at_once()
                results = self._results(trained)
                with ranks.raising_on_all(is_long=True), written_to(self.output, _KEPT):
                    if ranks.is_first:
                        self._write(work, trained, results)
            return results
        finally:
            if lock is not None:
                Path(lock.lock_file).unlink(missing_ok=True)
                lock.release()

    def _make_ready(self, work: Work, *, is_finished: bool, resume: bool) -> None:
        """Remove what a killed process left, and begin or go on."""
        output = self.output.resolve()
        remove_leftovers(output.parent, output.name.__eq__)
        if is_finished:
            work.remove()
        elif not work.is_there:
            if resume:
                self.training.display.say(
                    f"There is no fine-tuning of {self.output} to go on with: beginning one."
                )
            work.begin(self.settings)
        elif resume:
            refuse_other(read_settings(work.path), self.settings)
            self.training.display.say(f"Going on with the fine-tuning of {self.output}.")
        else:
            work.begin(self.settings)

    def _earlier_results(self) -> dict[str, Any]:
        """Those of the fine-tuning that is in the output."""
        with self.training.ranks.raising_on_all():
            refuse_other(read_settings(self.output), self.settings)
            results = msgspec.json.decode((self.output / RESULTS_FILE).read_bytes())
        self.training.display.say(f"The fine-tuning {self.output} is finished.")
        found: dict[str, Any] = results
        return found

    def _train_all(self, work: Work) -> dict[_Kind, dict[int, Trained]]:
        """Every seed, from both kinds of weights."""
        ranks = self.training.ranks
        found: dict[_Kind, dict[int, Trained]] = {kind: {} for kind in self.kinds}
        with written_to(self.output, _KEPT):
            for kind in self.kinds:
                for seed in self.training.config.seeds:
                    found[kind][seed] = self._train(work, kind, seed)
                    with ranks.raising_on_all(), written_to(self.output, _KEPT):
                        if ranks.is_first:
                            work.finish(kind, seed, found[kind][seed])
                            self._keep_best_weights(work, kind, found[kind])
        return found

    @contextmanager
    def _ending_well(self, work: Work) -> Iterator[None]:
        """Say what a signal leaves behind, and leave nothing that there is no going on with."""
        try:
            yield
        except (RunStopped, BertsmithError) as error:
            # Trained on as before, what diverged diverges again.
            is_lost = isinstance(error, DivergenceError) or not work.has_progress()
            if is_lost and self.training.ranks.is_first:
                work.remove()
            elif isinstance(error, RunStopped):
                raise RunStopped(
                    error.by,
                    f"stopped by {error.by.name}; what was trained is kept. To go on, give the "
                    "same command with --resume beside it.",
                ) from None
            raise

    def _train(self, work: Work, kind: _Kind, seed: int) -> Trained:
        ranks = self.training.ranks
        with ranks.raising_on_all():
            trained = work.trained(kind, seed)
        if trained is None:
            trained = self.training.run(kind, seed, work.training(kind, seed))
        return trained

    def _keep_best_weights(self, work: Work, kind: _Kind, trained: dict[int, Trained]) -> None:
        best = self._best_seed(trained) if kind == "pretrained" else None
        for seed in trained:
            if seed != best:
                work.drop_weights(kind, seed)

    def _best_seed(self, trained: dict[int, Trained]) -> int:
        def value(seed: int) -> float:
            found = trained[seed].metrics[self.training.metric]
            assert found is not None  # `refuse_alike`
            return found

        return max(trained, key=value)  # the first one of several

    def _results(self, trained: dict[_Kind, dict[int, Trained]]) -> dict[str, Any]:
        """All figures."""
        training = self.training
        return {
            **training.results(),
            # From here: the folder may be given away.
            "files": {
                name: os.path.relpath(path.resolve(), self.output.resolve())
                for name, path in self.files._asdict().items()
                if path is not None
            },
            "metric": training.metric,
            "seeds": list(training.config.seeds),
            "best_seed": self._best_seed(trained["pretrained"]),
            **{kind: _summary(list(trained[kind].values())) for kind in self.kinds},
        }

    def _write(
        self, work: Work, trained: dict[_Kind, dict[int, Trained]], results: dict[str, Any]
    ) -> None:
        """The output, of the weights of the best moment of the best seed."""
        training, seed = self.training, results["best_seed"]
        weights = work.weights(seed, trained["pretrained"][seed])
        refuse_damaged(weights)
        model = training.model()
        load_weights(weights, model)
        with whole_folder(self.output.resolve()) as part:
            training.write(model, part)
            card = finetuned_card(results, training.config.license)
            (part / CARD_FILE).write_text(card, encoding="utf-8")
            (part / SETTINGS_FILE).write_text(tomli_w.dumps(self.settings), encoding="utf-8")
            (part / RESULTS_FILE).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        work.remove()


def _summary(trained: Sequence[Trained]) -> dict[str, Any]:
    """Each metric's mean, deviation and values; when the best moments were, and the ends."""
    names = trained[0].metrics
    summary: dict[str, Any] = {
        name: spread_of([found.metrics[name] for found in trained]) for name in names
    }
    summary["best_epochs"] = [found.epoch for found in trained]
    summary["epochs"] = [found.epochs for found in trained]
    return summary


@contextmanager
def _warned_once(ranks: Ranks) -> Iterator[None]:
    """What is said of the tables, the first rank says for all."""
    with warnings.catch_warnings():
        if not ranks.is_first:
            warnings.simplefilter("ignore")
        yield


def _is_finetuned(output: Path) -> bool:
    return (output / RESULTS_FILE).is_file() and (output / CONFIG_FILE).is_file()


def _check_output(output: Path, *, overwrite: bool, resume: bool) -> None:
    """Refuse to write over anything but an earlier fine-tuning, and over that unless asked to."""
    if output.exists() and not output.is_dir():
        raise RunError(f"The output {output} must be a folder; it is a file.")
    if not (overwrite or resume) and Work(output).is_there:
        raise RunError(
            f"The fine-tuning of {output} was not finished; go on with it by --resume, or begin "
            "anew with --overwrite."
        )
    if not output.exists() or not any(output.iterdir()):
        return
    if not _is_finetuned(output):
        raise RunError(
            f"The output folder {output} must be new, empty or an earlier fine-tuning; it has "
            "other files. Name another with --output."
        )
    if not (overwrite or resume):
        raise RunError(
            f"The output folder {output} already holds a fine-tuned model; name another with "
            "--output, or replace it with --overwrite."
        )


def _locked(output: Path) -> FileLock:
    """The output for one process at a time.

    The lock lies beside the folder, which is replaced as a whole, and is removed at the end.

    Raises:
        RunError: another process has it.
        OSError: nothing can be written there.
    """
    path = output.resolve()
    make_folder(path.parent)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"The output folder {output} is in use by another fine-tuning; wait for it, or name "
            "another with --output."
        ) from error
    return lock
