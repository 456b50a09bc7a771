"""The checkpoints of a run: written beside the training, checked, found again, pruned.

A checkpoint is a Hugging Face model (invariant 4) with the training state beside it:

    config.json model.safetensors tokenizer.json tokenizer_config.json   the model
    optimizer.safetensors      what optimizers keep, `exp_avg.<parameter>` and so on
    training_state.json        what was spent and added up, see `Progress`
    SHA256SUMS                 of all of these

Nothing else is needed to go on: batches and dropout are functions of seed and step.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bertsmith.architectures import Encoder
from bertsmith.durable import (
    damage,
    is_ours,
    remove_folder,
    remove_leftovers,
    whole_folder,
)
from bertsmith.errors import ModelError, RunError
from bertsmith.nn.shards import own_part, put, whole, whole_like
from bertsmith.ranks import ALONE, Ranks
from bertsmith.saved.hugging_face import Snapshot, load_weights, save_tensors
from bertsmith.saved.locate import (
    CHECKPOINTS_FOLDER,
    checkpoint_folder,
    is_checkpoint_name,
    list_checkpoints,
    step_of,
)
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.averaging import WeightAverage
from bertsmith.training.optimizer import Optimizers
from bertsmith.training.progress import Progress

OPTIMIZER_FILE = "optimizer.safetensors"
STATE_FILE = "training_state.json"

_WEIGHT = "weight"  # beside moments, where the checkpoint's model is a mean of weights


class Checkpoints:
    """Those of one run.

    A checkpoint is copied at once and written by a thread, so that training waits for the copy
    alone. One is written at a time.

    Args:
        run: the run's folder.
        keep: how many of the newest are kept.
        keep_every: those after a multiple of so many steps are kept, too.
        ranks: who trains; they gather what is spread over them, and the first one writes.
    """

    def __init__(
        self, run: Path, *, keep: int, keep_every: int | None, ranks: Ranks = ALONE
    ) -> None:
        self._run = run
        self._ranks = ranks
        self._folder = run / CHECKPOINTS_FOLDER
        self._keep = keep
        self._keep_every = keep_every
        self._holds: Callable[[], None] = lambda: None
        self._writer: threading.Thread | None = None
        self._error: Exception | None = None

    def only_while(self, holds: Callable[[], None]) -> None:
        """Call `holds` before each checkpoint; where it raises, on any rank, none is written."""
        self._holds = holds

    def save(
        self,
        model: Encoder,
        optimizers: Optimizers,
        average: WeightAverage,
        tokenizer: Tokenizer,
        progress: Progress,
        *,
        is_provisional: bool = False,
    ) -> None:
        """Begin the checkpoint of this moment; when it is whole, older ones are pruned.

        Those of the best evaluation and of numbers of words stay, where `progress` names them.

        Args:
            model, optimizers, average, tokenizer, progress: what is saved. Where weights are
                averaged, the mean is the checkpoint's model, and the weights lie beside the
                moments.
            is_provisional: whether a validation may still condemn it; then one more is kept.

        Raises:
            OSError: the checkpoint before could not be written. Whole ones are as they were.
            BertsmithError: of `only_while`.
        """
        self.wait()
        with self._ranks.raising_on_all(is_long=True):  # a large text may be read again
            self._holds()
        target = checkpoint_folder(self._run, progress.spent.step)
        keeps = self._ranks.is_first
        with average.applied():
            snapshot = Snapshot.of(model, tokenizer, keeps=keeps)
            moments = _moments(model, optimizers, average, keeps=keeps)
        if not keeps:
            return
        stay = {*progress.checkpoints_at_words.values()}
        if progress.best is not None:
            stay.add(progress.best.step)
        state = json.dumps(progress.to_json(), indent=2, allow_nan=False) + "\n"

        def write() -> None:
            try:
                self._make_room(target)
                with whole_folder(target) as folder:
                    snapshot.write(folder)
                    save_tensors(moments, folder / OPTIMIZER_FILE)
                    (folder / STATE_FILE).write_text(state, encoding="utf-8")
                self._prune(self._keep + is_provisional, stay)
            except Exception as error:  # raised where the run can end in good order
                self._error = error

        # A daemon: whoever asks a second time to leave at once does not wait for the disk.
        self._writer = threading.Thread(target=write, name="checkpoint", daemon=True)
        self._writer.start()

    def wait(self) -> None:
        """Until the last one is on disk. Raises: `OSError` if it could not be written."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None
        self.check()

    def then(self, action: Callable[[], None]) -> None:
        """Do something when the last one is on disk or has failed, without waiting for it."""
        writer = self._writer
        if writer is None or not writer.is_alive():
            action()
            return

        def wait() -> None:
            writer.join()
            action()

        threading.Thread(target=wait, daemon=True).start()

    def check(self) -> None:
        """Raise what a checkpoint met on its way to the disk, without waiting for it."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def withdraw(self, step: int) -> None:
        """Remove the checkpoint of a step, if there is one: nothing goes back to it any more.

        Raises:
            OSError: it cannot be removed.
        """
        self.wait()
        path = checkpoint_folder(self._run, step)
        if self._ranks.is_first and os.path.lexists(path):
            remove_folder(path) if is_ours(path) else _set_aside(path)

    def has(self, step: int) -> bool:
        """Whether there is one of a step; not checked."""
        return is_ours(checkpoint_folder(self._run, step))

    def newest(self) -> Path | None:
        """The newest one that is listed; not checked."""
        return next(reversed(list_checkpoints(self._run)), None)

    def newest_whole(self, say: Callable[[str], None]) -> Path | None:
        """The newest one of which every byte is as it was written; the first rank looks for all.

        Damaged ones that are newer are renamed to `….damaged` and said; what killed processes left
        half-written is removed.

        Raises:
            RunError: there are checkpoints, and none is whole.
            OSError: one cannot be read.
        """
        self.wait()
        found, error = None, None
        if self._ranks.is_first:
            try:
                found = self._look_for_whole(say)
            except RunError as refused:
                error = refused
        self._ranks.agree(error)
        name = self._ranks.from_first(found and found.name)
        return None if name is None else self._folder / name

    def _look_for_whole(self, say: Callable[[str], None]) -> Path | None:
        remove_leftovers(self._folder, _is_own)
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if is_checkpoint_name(path.name) and not path.is_dir():
                say(f"{path} is no checkpoint, though it is called so: it is left alone.")
        found = None
        damaged = []
        for folder in reversed(list_checkpoints(self._run)):
            wrong = damage(folder)
            if wrong is None:
                found = folder
                break
            damaged.append((folder, wrong))
        if damaged and found is None:
            raise RunError(
                f"The run {self._run} must have a whole checkpoint to go on from; "
                f"{', '.join(f'{folder.name} is damaged ({wrong})' for folder, wrong in damaged)}. "
                "Put a whole one back, or begin anew with --overwrite."
            )
        for folder, wrong in damaged:
            assert found is not None
            aside = _set_aside(folder)
            say(
                f"The checkpoint {folder.name} is damaged: {wrong}; going on from {found.name}, "
                f"{aside.name} is kept."
            )
        return found

    def _make_room(self, target: Path) -> None:
        """Set aside what lies where a checkpoint is to be, unless it is one."""
        if os.path.lexists(target) and not is_ours(target):
            _set_aside(target)

    def _prune(self, keep: int, stay: set[int]) -> None:
        # Somebody may have put a folder there, a link to one, or a file into a checkpoint.
        own = [path for path in list_checkpoints(self._run) if is_ours(path)]
        for old in own[:-keep]:
            is_kept = self._keep_every and not step_of(old) % self._keep_every
            if not is_kept and step_of(old) not in stay:
                remove_folder(old)


def _set_aside(path: Path) -> Path:
    """Give what is damaged, or is no checkpoint, another name, which is given back."""
    aside = path.with_name(f"{path.name}.damaged")
    number = 1
    while os.path.lexists(aside) and not is_ours(aside):
        number += 1
        aside = path.with_name(f"{path.name}-{number}.damaged")
    if os.path.lexists(aside):
        remove_folder(aside)
    path.rename(aside)
    return aside


def restore(
    folder: Path, model: Encoder, optimizers: Optimizers, average: WeightAverage
) -> Progress:
    """Set weights, moments and the mean of weights to those of a checkpoint.

    Args:
        model: of the checkpoint's shape, on any device.
        optimizers: new or used, of `model`'s parameters, of the kind that was saved.
        average: the same.

    Raises:
        ModelError: a file is damaged or not of this model.
    """
    progress = Progress.read(folder / STATE_FILE)
    load_weights(folder, model)
    path = folder / OPTIMIZER_FILE
    try:
        with safe_open(path, framework="pt") as moments:
            for name, parameter in model.named_parameters():
                state = {
                    kind: _restored(moments, f"{kind}.{name}", parameter, path)
                    for kind in optimizers.kinds_of(parameter)
                }
                optimizers.set_state(parameter, state)
                if progress.num_averaged:
                    weight = _restored(moments, f"{_WEIGHT}.{name}", parameter, path)
                    average.means[name] = own_part(weight)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is damaged: {error}.") from error
    if progress.num_averaged:
        average.exchange()
    else:
        average.forget()
    return progress


def _restored(moments: Any, key: str, parameter: Tensor, path: Path) -> Tensor:
    """What the open file holds under `key`, spread as `parameter` is; one at a time is whole."""
    is_count = key.startswith("step.")
    shape = torch.Size([]) if is_count else parameter.shape
    if key not in moments.keys() or moments.get_slice(key).get_shape() != list(shape):  # noqa: SIM118
        raise ModelError(f"{path} must hold {key} of shape {list(shape)}; it does not.")
    # Memory of PyTorch's own: how products and sums round can depend on where it begins.
    if is_count:
        value = torch.empty((), dtype=torch.float32, device=parameter.device)
    else:
        value = torch.empty_like(parameter, requires_grad=False)
    put(value, moments.get_tensor(key))
    return value


def _is_own(name: str) -> bool:
    return is_checkpoint_name(name.removesuffix(".damaged"))


def _moments(
    model: Encoder, optimizers: Optimizers, average: WeightAverage, *, keeps: bool
) -> dict[str, Tensor]:
    """What is kept of each parameter, by `<kind>.<parameter>`, copied to the host.

    A rank that does not keep them has a part in gathering alone, and gets nothing.
    """
    moments: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        kept = {
            kind: whole(value.detach()) for kind, value in optimizers.state_of(parameter).items()
        }
        if name in average.means:
            kept[_WEIGHT] = whole_like(parameter, average.means[name])
        if keeps:
            moments |= {f"{kind}.{name}": value.cpu().clone() for kind, value in kept.items()}
    return moments
