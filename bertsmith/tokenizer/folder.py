"""The files of a tokenizer, as others write them: tokenizer.json, or BERT's own vocab.txt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, normalizers, pre_tokenizers

from bertsmith.corpus import UNKNOWN_WORD
from bertsmith.errors import TokenizerError
from bertsmith.tokenizer.examine import examine, is_panic, try_out

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
VOCABULARY_FILE = "vocab.txt"
TOKENIZER_FILES = (TOKENIZER_FILE, CONFIG_FILE)
"""What is written here."""

ROLES = ("pad", "unk", "cls", "sep", "mask")
SPECIAL_TOKENS = ("[PAD]", UNKNOWN_WORD, "[CLS]", "[SEP]", "[MASK]")
"""Of the vocabularies that are trained here; a folder may name its own."""

_LARGEST_FILE = 2**28  # bytes of a tokenizer.json; those of a million entries have a quarter of it


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer."""
    return any((folder / name).is_file() for name in (TOKENIZER_FILE, VOCABULARY_FILE))


def read_folder(folder: Path) -> tuple[Backend, dict[str, Any]]:
    """The tokenizer of a folder, and what its config says.

    Raises:
        TokenizerError: the files are missing or damaged, or do what no tokenizer does.
    """
    path, config_path = folder / TOKENIZER_FILE, folder / CONFIG_FILE
    if not has_tokenizer(folder):
        raise TokenizerError(
            f"The folder {folder} must hold {TOKENIZER_FILE} or {VOCABULARY_FILE}; it does not."
        )
    for file in (path, config_path, folder / VOCABULARY_FILE):
        if file.is_file() and file.stat().st_size > _LARGEST_FILE:
            raise TokenizerError(
                f"{file} must be at most {_LARGEST_FILE} bytes; it has {file.stat().st_size}."
            )
    try:
        config = json.loads(config_path.read_text("utf-8")) if config_path.is_file() else {}
        if not isinstance(config, dict):
            raise ValueError(f"{CONFIG_FILE} must be an object")
        backend = _read(path) if path.is_file() else _bert(folder / VOCABULARY_FILE, config)
        try_out(backend)
    except TokenizerError as error:
        raise TokenizerError(f"The tokenizer in {folder} is not taken. {error}") from error
    # The library raises its bare Exception for a file it cannot parse, or its own panic.
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise TokenizerError(f"The tokenizer in {folder} is damaged: {error}.") from error
    backend.no_truncation()
    backend.no_padding()
    return backend, config


def bert_settings(rules: dict[str, Any]) -> dict[str, Any]:
    """What `BertTokenizerFast` must be told to spell as these rules of a tokenizer do.

    It makes its normalizer anew from these settings, and takes BERT's own for what is missing.
    Empty for vocabularies that it cannot have.
    """
    if rules["model"]["type"] not in ("WordPiece", "WordLevel"):
        return {}
    found = rules.get("normalizer") or {}
    steps = {step.get("type"): step for step in found.get("normalizers", [found])}
    bert = steps.get("BertNormalizer", {"strip_accents": "StripAccents" in steps})
    return {
        "strip_accents": bert["strip_accents"],
        "tokenize_chinese_chars": bert.get("handle_chinese_chars", False),
    }


def _read(path: Path) -> Backend:
    content = path.read_bytes()
    examine(content)
    return Backend.from_str(content.decode("utf-8"))


def _bert(path: Path, config: dict[str, Any]) -> Backend:
    """A vocabulary of WordPieces, an entry a line, with BERT's rules (Devlin et al. 2018)."""
    entries = path.read_text(encoding="utf-8").split("\n")
    if entries[-1] == "":
        entries.pop()
    vocabulary = {entry.rstrip("\r"): number for number, entry in enumerate(entries)}
    named = (config.get(f"{role}_token") for role in ROLES)
    special = [
        (entry.get("content") if isinstance(entry, dict) else entry) or usual
        for entry, usual in zip(named, SPECIAL_TOKENS, strict=True)
    ]
    backend = Backend(models.WordPiece(vocabulary, unk_token=special[ROLES.index("unk")]))
    backend.normalizer = normalizers.BertNormalizer(
        lowercase=bool(config.get("do_lower_case", True)),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
    )
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([token for token in special if token in vocabulary])
    return backend
