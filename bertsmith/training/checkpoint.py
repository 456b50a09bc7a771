"""Folders that appear whole or not at all, and the checkpoints of a run.

A checkpoint is a Hugging Face model (invariant 4) with the training state beside it:

    config.json model.safetensors tokenizer.json tokenizer_config.json   the model
    optimizer.safetensors      the optimizer's moments, `exp_avg.<parameter>` and so on
    training_state.json        what was spent: steps, pairs, tokens, seconds

Nothing else is needed to go on: batches and dropout are functions of seed and step.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch

from bertsmith.model.bert import Bert
from bertsmith.model.hugging_face import save_model, save_tensors
from bertsmith.model.locate import checkpoint_folder, list_checkpoints
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.budget import Spent


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill that takes the place of `target` at the end, or vanishes on an error."""
    work = target.with_name(f".{target.name}.part")
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
            target.rename(old)
        work.rename(target)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)


def save_checkpoint(
    run: Path,
    model: Bert,
    optimizer: torch.optim.Optimizer,
    tokenizer: Tokenizer,
    spent: Spent,
    *,
    keep: int,
) -> Path:
    """Write the checkpoint of this step and remove all but the newest `keep`.

    Raises:
        OSError: no space, no permission; what was there before is whole.
    """
    target = checkpoint_folder(run, spent.step)
    with whole_folder(target) as folder:
        save_model(model, tokenizer, folder)
        save_tensors(_optimizer_tensors(model, optimizer), folder / "optimizer.safetensors")
        (folder / "training_state.json").write_text(
            json.dumps({"format": 1, "spent": asdict(spent)}, indent=2) + "\n", encoding="utf-8"
        )
    for old in list_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return target


def _optimizer_tensors(model: Bert, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """`exp_avg.<parameter>`, `exp_avg_sq.<parameter>`, `step.<parameter>`, on the host."""
    return {
        f"{kind}.{name}": value.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        for kind, value in optimizer.state[parameter].items()
    }
