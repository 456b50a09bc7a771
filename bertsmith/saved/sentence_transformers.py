"""How a folder makes sentence vectors, as sentence-transformers writes it: pooling, then length 1.

modules.json                        the steps
sentence_bert_config.json           the longest text
config_sentence_transformers.json   how vectors are compared
1_Pooling/config.json               mean or [CLS]
2_Normalize/                        if vectors have length 1
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from bertsmith.durable import read_small
from bertsmith.errors import ModelError
from bertsmith.saved.hugging_face import read_json

MODULES_FILE = "modules.json"
_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
_LENGTH_FILE = "sentence_bert_config.json"
POOLING_FILES = (MODULES_FILE, _LENGTH_FILE, f"{_POOLING}/config.json")
"""That say how vectors are made."""
_MOST_BYTES = 2**20
_MODES = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
"""The names that all versions of the library read."""


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """From the vectors of a text's tokens to one of the text."""

    mode: Literal["mean", "cls"] = "mean"
    """The mean over all tokens, [CLS] and [SEP] counted, or the vector of [CLS]."""
    normalize: bool = True
    """Whether it is brought to length 1."""


def write_pooling(folder: Path, pooling: Pooling, *, size: int, max_length: int) -> None:
    """Write how vectors are made beside a model.

    Args:
        folder: of the model.
        pooling: how.
        size: of a vector.
        max_length: tokens that are read of a text.

    Raises:
        OSError: it cannot be written.
    """
    kinds = {"": "Transformer", _POOLING: "Pooling"}
    if pooling.normalize:
        kinds[_NORMALIZE] = "Normalize"
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    files: dict[str, Any] = {
        MODULES_FILE: modules,
        _LENGTH_FILE: {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"similarity_fn_name": "cosine", "prompts": {}},
        f"{_POOLING}/config.json": {
            "word_embedding_dimension": size,
            **{name: mode == pooling.mode for name, mode in _MODES.items()},
        },
    }
    if pooling.normalize:
        files[f"{_NORMALIZE}/config.json"] = {}
    for path in kinds:
        (folder / path).mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_pooling(folder: Path) -> Pooling | None:
    """How a folder makes vectors of texts; None: it does not say.

    Raises:
        ModelError: it has a step that is none of those here, or is damaged.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    path = folder / MODULES_FILE
    try:
        modules = msgspec.json.decode(read_small(path, _MOST_BYTES), type=list[_Module])
    except (OSError, msgspec.MsgspecError) as error:
        raise ModelError(f"{path} must be a list of modules: {error}.") from error
    kinds = [module.type.rpartition(".")[2] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelError(
            f"{path} must be a Transformer, Pooling and maybe Normalize; it is {', '.join(kinds)}."
        )
    where = modules[1].path
    if modules[0].path or not re.fullmatch(r"[\w-]+", where):
        raise ModelError(
            f"{path} must have the model beside it and pooling in a folder of its own."
        )
    mode = _mode(folder / where / "config.json")
    return Pooling(mode=mode, normalize="Normalize" in kinds)


def read_max_length(folder: Path) -> int | None:
    """The longest text that a folder says is read, in tokens; None: it does not say."""
    path = folder / _LENGTH_FILE
    found = read_json(path).get("max_seq_length") if path.is_file() else None
    return found if isinstance(found, int) and found > 0 else None


def _mode(path: Path) -> Any:
    found = read_json(path)
    modes: list[Any] = [
        _MODES.get(name, name)
        for name, is_on in found.items()
        if name.startswith("pooling_mode_") and is_on is True
    ]
    modes += [found["pooling_mode"]] if "pooling_mode" in found else []  # its sixth version
    if len(modes) != 1 or modes[0] not in _MODES.values():
        got = ", ".join(map(str, modes)) or "nothing"
        raise ModelError(f"{path} must say mean or cls; got {got}.")
    return modes[0]


class _Module(msgspec.Struct):
    type: str
    path: str
