"""A run that goes on, from its newest whole checkpoint."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bertsmith.architectures import Encoder
from bertsmith.errors import BertsmithError, RunError
from bertsmith.hardware.device import deterministic
from bertsmith.saved.locate import list_checkpoints
from bertsmith.training.budget import Budget
from bertsmith.training.checkpoint import STATE_FILE
from bertsmith.training.checks import written_to
from bertsmith.training.earlier import EarlierRun
from bertsmith.training.fit import with_micro_batch
from bertsmith.training.initial import FirstWeights
from bertsmith.training.prepare import Prepared, prepare_on_ranks, refuse_other_text
from bertsmith.training.progress import Progress

if TYPE_CHECKING:
    from bertsmith.training.pretrain import Job


def resume_or_begin(job: Job, *, as_before: bool) -> dict[str, Any]:
    """The rest of a run, or all of it if none was begun; see `resume`."""
    if job.ranks.from_first(job.folder is not None and job.folder.has_run):
        return resume(job, as_before=as_before)
    job.display.say(f"There is no run in {job.path} yet: beginning one.")
    return job.begin()


def resume(job: Job, *, as_before: bool) -> dict[str, Any]:
    """The rest of a run; nothing is changed before all that can be refused has been.

    Args:
        as_before: what was found by trying is taken from the run: nobody asked anew.
    """
    path, progress = job.path, None
    with job.ranks.raising_on_all():
        earlier = EarlierRun.read(path)
        earlier.refuse_differences(job.config)
    if as_before and job.config.training.micro_batch == "auto":
        config = with_micro_batch(job.config, earlier.config.training.micro_batch)
        return resume(replace(job, config=config), as_before=False)
    same_budget = earlier.has_budget_of(job.config)
    if job.config.lays_out_batches and not same_budget:
        raise job.ranks.of_all(
            RunError(
                "A run whose batches grow, in sequences or in their length, must keep its budget, "
                "over which that is laid out; got another. Begin another run."
            )
        )
    if earlier.is_finished and same_budget:
        more = "." if job.config.lays_out_batches else "; a larger budget would go on with it."
        job.display.say(f"The run {path} is finished{more}")
        return {**earlier.last_line, "output": str(path)}
    with written_to(path):  # damaged checkpoints are renamed
        newest = job.checkpoints.newest_whole(job.display.warn)
    with job.ranks.raising_on_all():
        if newest is None and (earlier.has_model or earlier.last_line.get("finished")):
            raise RunError(
                f"The run {path} must have a checkpoint to go on from; it was finished, and "
                "has none any more. Put checkpoints/ back, or begin anew with --overwrite."
            )
        if newest is not None:
            progress = Progress.read(newest / STATE_FILE)
            earlier.refuse_differences(job.config, progress)
    prepared = prepare_on_ranks(job.config, newest, job.ranks, job.display)
    with job.ranks.raising_on_all(is_long=True):
        refuse_other_text(earlier.report, prepared.report)
        if progress is not None and not same_budget:
            _refuse_spent(job, progress, prepared)
        model, first = job.model(prepared, newest)
        if progress is not None and progress.owes_validation:
            first = _beginning(job, model, prepared)
    if job.ranks.any(first is None):  # going back to the beginning is done together
        first = None
    if not same_budget:
        job.display.say("The budget is another now: the learning rate is laid out over it.")
    with job.ending_well(), deterministic(job.device):
        return job.train(model, first, prepared, newest, resumes=True)


def _refuse_spent(job: Job, progress: Progress, prepared: Prepared) -> None:
    spent = progress.spent
    budget = Budget.of(job.config.training, prepared.batches.num_examples)
    if budget.progress(spent) == 1:
        raise RunError(
            f"The budget must be over what the run has done, {spent.step:,} steps "
            f"({spent.tokens:,} tokens, {spent.seconds / 60:.1f} minutes); give more."
        )


def _beginning(job: Job, model: Encoder, prepared: Prepared) -> FirstWeights | None:
    """What the run began with, should the validation that is owed condemn its checkpoint.

    None if other checkpoints are there to go back to, or it cannot be read any more.
    """
    if len(list_checkpoints(job.path)) == 1:
        with suppress(BertsmithError):
            return FirstWeights.read(
                model, job.config, prepared, ranks=job.ranks, display=job.display
            )
    return None
