"""How a folder makes sentence vectors, as sentence-transformers writes it: pooling, then length 1.

modules.json                        the steps
sentence_bert_config.json           the longest text
config_sentence_transformers.json   how vectors are compared
1_Pooling/config.json               mean or [CLS]
2_Normalize/                        if vectors have length 1
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bertsmith.errors import ModelError
from bertsmith.saved.hugging_face import read_json

MODULES_FILE = "modules.json"
_POOLING, _NORMALIZE = "1_Pooling", "2_Normalize"
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
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
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
        ModelError: it says it in a way that is not read here.
    """
    if not (folder / MODULES_FILE).is_file():
        return None
    found = read_json(folder / _POOLING / "config.json")
    modes: list[Any] = [mode for name, mode in _MODES.items() if found.get(name)]
    others = [
        name
        for name, is_on in found.items()
        if name.startswith("pooling_mode_") and is_on and name not in _MODES
    ]
    if "pooling_mode" in found:  # as the library's sixth version writes it
        modes = [found["pooling_mode"]]
    if others or len(modes) != 1 or modes[0] not in _MODES.values():
        raise ModelError(
            f"{folder / _POOLING / 'config.json'} must say mean or cls; got "
            f"{', '.join([*map(str, modes), *others]) or 'nothing'}."
        )
    return Pooling(mode=modes[0], normalize=(folder / _NORMALIZE).is_dir())
