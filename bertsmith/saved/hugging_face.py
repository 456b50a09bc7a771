"""A model as a Hugging Face folder: names and config of its architecture, safetensors, JSON.

What is written loads with `AutoModelForPreTraining.from_pretrained(folder)` and `AutoTokenizer`,
and any folder of an architecture that is registered loads here. Nothing in a folder is executed or
unpickled; names and shapes are checked before a weight is read.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from bertsmith.architectures import OF_FINE_TUNING, Architecture, Encoder, architecture_of, build
from bertsmith.config import ModelConfig
from bertsmith.config.registered import ARCHITECTURES
from bertsmith.durable import CHECKSUMS_FILE, damage, is_ours, whole_folder
from bertsmith.errors import ConfigError, ModelError, RunError
from bertsmith.nn.shards import put, whole
from bertsmith.saved.stored import StoredTensors, files_of_index, opened
from bertsmith.tokenizer import TOKENIZER_FILES, Tokenizer

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CONFIG_FILE = "config.json"

_MAX_JSON_BYTES = 2**20
_FILES = frozenset((CONFIG_FILE, WEIGHTS_FILE, *TOKENIZER_FILES))
_SHORTEST = 3  # tokens that a model reads at least
_LARGEST_SIZE, _MOST_LAYERS = 2**24, 512  # bounds on what a stranger's config may ask for


class ModelFolder(NamedTuple):
    """What a Hugging Face folder holds."""

    model: Encoder
    tokenizer: Tokenizer
    missing: frozenset[str]
    """Heads that the folder has no weights for; they are as initialised."""


def to_hugging_face(
    state: Mapping[str, Tensor], architecture: Architecture[Any], *, keeps: bool = True
) -> dict[str, Tensor]:
    """A state dict of ours under Hugging Face's names, on the host, contiguous.

    Of weights that are spread over ranks one at a time is gathered on its device; a rank that does
    not keep them has a part in that alone, and gets nothing.
    """
    out = {}
    for name, value in state.items():
        names, gathered = architecture.hugging_face_names(name), whole(value.detach())
        if keeps:
            for target, part in zip(names, gathered.cpu().chunk(len(names)), strict=True):
                out[target] = part.contiguous().clone()
    return out


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A model as it was at one moment; it can be written while the model is trained on."""

    config: dict[str, Any]
    """What config.json holds."""
    weights: dict[str, Tensor]
    """On the host, by Hugging Face's names."""
    tokenizer: Tokenizer

    @staticmethod
    def of(model: Encoder, tokenizer: Tokenizer, *, keeps: bool = True) -> Snapshot:
        """A copy of `model` as it is now; of one on several ranks all ask, and one need keep it."""
        architecture = _architecture(model)
        cls, sep = tokenizer.cls_id, tokenizer.sep_id
        ids = {"pad": tokenizer.pad_id, "cls": cls, "sep": sep, "bos": cls, "eos": sep}
        config = {
            "architectures": [architecture.transformers_class(model.heads)],
            "model_type": architecture.name,
            "vocab_size": model.vocab_size,
            **{f"{name}_token_id": ids[name] for name in architecture.token_ids},
            "tie_word_embeddings": True,
            "dtype": "float32",
            **architecture.write_config(model.config),
            # Positions beyond it are as they were drawn; see docs/design/model.md.
            "trained_max_length": tokenizer.max_length,
        }
        if OF_FINE_TUNING & model.heads:
            config |= labels_config([f"LABEL_{number}" for number in range(model.num_labels)])
        weights = to_hugging_face(model.state_dict(), architecture, keeps=keeps)
        return Snapshot(config=config, weights=weights, tokenizer=tokenizer)

    def write(self, folder: Path) -> None:
        """Write config, weights and tokenizer into the existing `folder`. Raises: `OSError`."""
        config = json.dumps(self.config, indent=2) + "\n"
        (folder / CONFIG_FILE).write_text(config, encoding="utf-8")
        save_tensors(self.weights, folder / WEIGHTS_FILE)
        self.tokenizer.save(folder)


def write_model(snapshot: Snapshot, folder: Path, *, overwrite: bool = False) -> None:
    """Make a folder of a snapshot; nobody meets a half one.

    Raises:
        RunError: there is something in its place, and it is not one that is to be replaced.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not (is_ours(folder) and (folder / CONFIG_FILE).is_file()):
            raise RunError(
                f"The folder {folder} must be new, empty or an earlier model; it is something else."
            )
        if not overwrite:
            raise RunError(
                f"The folder {folder} already holds a model; name another, or give overwrite=True."
            )
    try:
        with whole_folder(folder.resolve()) as part:
            snapshot.write(part)
    except OSError as error:
        raise RunError(f"Cannot write to {folder}: {error.strerror or error}.") from error


def labels_config(names: Sequence[str]) -> dict[str, Any]:
    """What config.json says of the outputs of a classifier."""
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
    }


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file. Raises: `OSError`, as any other write does, if it cannot."""
    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:  # the library's wrapping of the system's error
        number = re.search(r"os error (\d+)", str(error))
        code = int(number[1]) if number else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


def load_model(folder: Path) -> ModelFolder:
    """Read a model and its tokenizer from a Hugging Face folder.

    Raises:
        ModelError: a file is missing or damaged, or it is of no architecture that is registered.
        TokenizerError: the tokenizer's files are missing or damaged.
    """
    refuse_damaged(folder)
    config, vocab_size = read_config(folder)
    tokenizer = Tokenizer.load(folder, default_max_length=config.max_position_embeddings)
    refuse_large_vocabulary(folder, tokenizer, vocab_size)
    if tokenizer.max_length < _SHORTEST:
        raise ModelError(
            f"{folder}: `model_max_length` and `max_position_embeddings` must be {_SHORTEST} or "
            f"more, for [CLS], a word and [SEP]; got {tokenizer.max_length}."
        )
    # On the meta device no memory is taken before the file has been held against the config.
    with torch.device("meta"):
        model = build(config, vocab_size)
    state, missing = read_weights(folder, model)
    model.to_empty(device="cpu")
    if missing:
        model.initialize(seed=0)
    model.load_state_dict(state, strict=False)
    return ModelFolder(model.eval(), tokenizer, missing)


def class_of(folder: Path) -> str:
    """The `transformers` class that config.json names; "model" if it names none.

    Raises:
        ModelError: config.json is missing or damaged.
    """
    named = read_json(folder / CONFIG_FILE).get("architectures")
    return str(named[0]) if isinstance(named, list) and named else "model"


def load_classifier(folder: Path, head: str) -> tuple[Encoder, Tokenizer, list[str]]:
    """Read a model with a classifier, its tokenizer, and the names of its classes.

    Args:
        folder: a Hugging Face folder whose config.json says that it is such.
        head: one of `OF_FINE_TUNING`.

    Raises:
        ModelError: a file is missing or damaged, or the classes have no names.
        TokenizerError: the tokenizer's files are missing or damaged.
    """
    refuse_damaged(folder)
    config, rows = read_config(folder)
    names = read_json(folder / CONFIG_FILE).get("id2label")
    if not isinstance(names, dict) or set(names) != set(map(str, range(len(names)))) or not names:
        got = list(names) if isinstance(names, dict) else names
        raise ModelError(f"{folder}: `id2label` must number its classes from 0; got {got}.")
    tokenizer = Tokenizer.load(folder, default_max_length=config.max_position_embeddings)
    refuse_large_vocabulary(folder, tokenizer, rows)
    model = build(config, rows, frozenset({head}), num_labels=len(names))
    load_weights(folder, model)
    return model.eval(), tokenizer, [str(names[str(number)]) for number in range(len(names))]


def refuse_damaged(folder: Path) -> None:
    """Hold the files of a model against the checksums beside them, where there are any.

    Raises:
        ModelError: one is not as it was written.
    """
    if not (folder / CHECKSUMS_FILE).exists():
        return
    try:
        wrong = damage(folder, _FILES)
    except OSError as error:
        raise ModelError(f"Cannot read {folder}: {error.strerror}.") from error
    if wrong:
        raise ModelError(
            f"The model {folder} is damaged: {wrong}. Take a checkpoint or a copy of it; where a "
            f"file was changed on purpose, remove {CHECKSUMS_FILE}."
        )


def refuse_large_vocabulary(folder: Path, tokenizer: Tokenizer, rows: int) -> None:
    """Raise `ModelError` if a folder's tokenizer has entries beyond its embeddings."""
    if tokenizer.vocab_size > rows:
        raise ModelError(
            f"{folder}: the tokenizer must fit the model's {rows} embeddings; "
            f"it has {tokenizer.vocab_size} entries."
        )


def load_weights(folder: Path, model: Encoder) -> None:
    """Set all weights of `model` to those of a folder. Raises: `ModelError`."""
    state, missing = read_weights(folder, model)
    if missing:
        raise ModelError(f"{folder} must hold {' and '.join(sorted(missing))}; it does not.")
    put_weights(model, state)


def put_weights(model: Encoder, state: Mapping[str, Tensor]) -> None:
    """Set weights of `model`, by our names; it may be spread over ranks."""
    own = model.state_dict()
    for name, value in state.items():
        put(own[name], value)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of at most 1 MiB. Raises: `ModelError`."""
    if path.exists() and not path.is_file():  # a pipe would be waited for, a device never ends
        raise ModelError(f"{path} must be a regular file; it is not.")
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_JSON_BYTES + 1)
        if len(raw) > _MAX_JSON_BYTES:
            raise ModelError(f"{path} must be at most {_MAX_JSON_BYTES} bytes of JSON; it is more.")
        value = msgspec.json.decode(raw)  # Python's own takes NaN, and halves of surrogate pairs
    except OSError as error:
        raise ModelError(f"Cannot read {path}: {error.strerror}.") from error
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} must be JSON: {error}.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object; it holds a {type(value).__name__}.")
    return value


def read_config(folder: Path) -> tuple[ModelConfig, int]:
    """The shape of the model in a folder, and the rows of its embedding matrix.

    Raises:
        ModelError: config.json is missing, damaged, or of no architecture that is registered.
    """
    found = read_json(folder / CONFIG_FILE)
    vocab_size = found.get("vocab_size", 30522)
    if (name := found.get("model_type")) not in ARCHITECTURES:
        raise ModelError(
            f"{folder / CONFIG_FILE}: `model_type` must be {' or '.join(ARCHITECTURES)}; got "
            f"{name!r}."
        )
    try:
        config = architecture_of(name).read_config(found)
    except ConfigError as error:
        raise ModelError(f"{folder / CONFIG_FILE}: {error}") from error
    if not isinstance(vocab_size, int) or not 1 <= vocab_size <= _LARGEST_SIZE:
        raise ModelError(
            f"{folder}: `vocab_size` must be from 1 to {_LARGEST_SIZE}; got {vocab_size!r}."
        )
    sizes = [value for value in vars(config).values() if isinstance(value, int)]
    if max(sizes) > _LARGEST_SIZE or config.num_hidden_layers > _MOST_LAYERS:
        raise ModelError(
            f"{folder / CONFIG_FILE}: sizes must be at most {_LARGEST_SIZE} and layers at most "
            f"{_MOST_LAYERS}; got {max(sizes)} and {config.num_hidden_layers}."
        )
    return config, vocab_size


def read_weights(folder: Path, model: Encoder) -> tuple[dict[str, Tensor], frozenset[str]]:
    """The state dict from a folder's weights, without the heads that it lacks; names of those.

    Raises:
        ModelError: the file is missing or damaged, or a weight is not of `model`'s shape.
    """
    architecture, state = _architecture(model), {}
    expected = {name: architecture.hugging_face_names(name) for name in model.state_dict()}
    with _opened(folder, architecture) as stored:
        missing = _missing_of(stored.names, architecture) & model.heads
        for name, value in model.state_dict().items():
            if name.split(".")[0] in missing:
                continue
            shape = [len(value) // len(expected[name]), *value.shape[1:]]
            state[name] = torch.cat(
                [
                    _finite(stored.tensor(target, shape), target, stored.path_of(target))
                    for target in expected[name]
                ]
            )
    return state, missing


def missing_heads(folder: Path) -> frozenset[str]:
    """Heads of its architecture that a folder has no weights for. Raises: `ModelError`."""
    architecture = architecture_of(read_config(folder)[0].architecture)
    with _opened(folder, architecture) as stored:
        return _missing_of(stored.names, architecture)


def _architecture(model: Encoder) -> Architecture[Any]:
    return architecture_of(model.config.architecture)


def _opened(folder: Path, architecture: Architecture[Any]) -> AbstractContextManager[StoredTensors]:
    """The weights of a folder: in one file if it is there, else in those of the index."""
    index = folder / INDEX_FILE
    names: dict[str, set[str] | None] = {WEIGHTS_FILE: None}
    if not (folder / WEIGHTS_FILE).is_file():
        if not index.exists():
            raise ModelError(
                f"The folder {folder} must hold {WEIGHTS_FILE} or {INDEX_FILE}; it does not. "
                "Weights in other formats (pickles among them) are not read."
            )
        names = files_of_index(index, read_json(index))
    return opened(folder, names, architecture.canonical)


def _missing_of(names: Iterable[str], architecture: Architecture[Any]) -> frozenset[str]:
    names = list(names)
    return frozenset(
        head
        for head, prefix in architecture.heads.items()
        if not any(name.startswith(prefix) for name in names)
    )


def _finite(value: Tensor, name: str, path: Path) -> Tensor:
    """In float32; what a NaN or an infinity is multiplied with would be one as well."""
    value = value.float()
    if not bool(torch.isfinite(value).all()):
        raise ModelError(
            f"{path}: all of {name} must be finite numbers; it has NaN or infinity. The training "
            "of these weights diverged, or the file was damaged: take another checkpoint."
        )
    return value
