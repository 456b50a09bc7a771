"""The settings of a run: every field, its meaning, its unit, its default and what must hold.

Four frozen sections: `PreparationConfig`, `DataConfig`, `ModelConfig`, `TrainingConfig`, under
one `PretrainConfig`. Names of model fields are Hugging Face's. No field name stands in two
sections, so that a flag, a keyword and a line of TOML mean the same setting. The command line and
its help are generated from these classes: the text under a field is its help.
"""

from __future__ import annotations

import codecs
import difflib
import math
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from bertsmith.errors import ConfigError

BUDGETS = ("steps", "epochs", "pairs", "tokens", "minutes")
"""Fields of `TrainingConfig` that say when training ends; a run sets one of them."""

TOKENIZERS = ("word", "wordpiece", "bpe", "unigram")
"""Kinds of vocabulary that are trained."""

_LEAST_SIMILARITY = 0.5  # under it the bands of a signature no longer find what is alike

MAY_CHANGE = frozenset(
    {
        *BUDGETS,
        *("log_every", "validate_every", "validation_pairs"),
        *("checkpoint_every", "keep_checkpoints", "keep_every"),
        *("device", "micro_batch", "recompute", "parallel", "compile"),
        *("max_rollbacks", "spike_factor"),
    }
)
"""Fields that a resumed run may have otherwise than before; the others say what is computed."""


def near(name: str, known: Iterable[str]) -> str:
    """The end of an error message about an unknown `name`: the nearest known ones, or all."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}."


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Shape of the network: the original BERT (Devlin et al. 2018, section 3)."""

    num_hidden_layers: int = 2
    """Transformer layers."""
    hidden_size: int = 128
    """Width of a token's vector."""
    intermediate_size: int = 256
    """Width of the feed-forward network inside a layer."""
    num_attention_heads: int = 2
    """Attention heads a layer; must divide the hidden size."""
    hidden_act: Literal["relu", "gelu"] = "gelu"
    """Activation of the feed-forward network and of the MLM head."""
    hidden_dropout_prob: float = 0.1
    """Dropout after the embeddings and after each sub-layer, in training."""
    attention_probs_dropout_prob: float = 0.1
    """Dropout of attention weights, in training."""
    max_position_embeddings: int = 512
    """Longest sequence the model has position vectors for, in tokens."""
    type_vocab_size: int = 2
    """Segments a sequence may have: first text and second text."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""
    layer_norm_eps: float = 1e-12
    """Added to the variance in layer normalisation."""

    def __post_init__(self) -> None:
        check_types(self)
        positive(self, "num_hidden_layers", "hidden_size", "intermediate_size")
        positive(self, "num_attention_heads", "max_position_embeddings", "type_vocab_size")
        positive(self, "initializer_range", "layer_norm_eps")
        fraction(self, "hidden_dropout_prob", "attention_probs_dropout_prob", below_one=True)
        if self.hidden_size % self.num_attention_heads:
            raise ConfigError(
                "`hidden_size` must be a multiple of `num_attention_heads` "
                f"({self.num_attention_heads}); got {self.hidden_size}."
            )


@dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """From text to a token store: sources, documents, sentences, the tokenizer."""

    corpus: tuple[str, ...] = ("wikitext-2",)
    """A corpus by name (`bertsmith corpora` lists them), files, folders, archives, patterns or
    addresses of text, a Hugging Face dataset (`hf:owner/name`), the folder of a prepared store, or
    - (standard input, to prepare it)."""
    validation: tuple[str, ...] = ()
    """Text to validate on, named as the corpus is; without it, a part of the corpus is held out."""
    validation_fraction: float = 0.05
    """Share of documents held out for validation where the corpus has no validation split."""
    encoding: str = "utf-8"
    """Encoding of text files and tables (windows-1252, utf-16, gbk, shift_jis, …); where a
    byte-order mark says another, that holds."""
    text_column: str = "text"
    """Column of tables (JSON, CSV, TSV, Parquet, datasets) that holds the text; a.b is a field."""
    max_bad_rows: float = 0.01
    """Largest share of rows (of lines of text, of files) that may be unreadable and left out."""
    documents: Literal["auto", "empty-line", "line", "file"] = "auto"
    """What a document is: text up to an empty line, a line, or a file; auto: up to an empty line in
    text files, a row in tables."""
    paragraphs: Literal["line", "empty-line"] = "line"
    """What a paragraph is: a line, or lines up to an empty one, joined (text with hard breaks)."""
    sentences: Literal["language", "full-stop", "line", "none"] = "language"
    """How paragraphs are split: by the rules of the language, at " . " (the textbook's), a sentence
    a line, or not at all. WikiText is always split as the textbook does it."""
    language: str | None = None
    """Language of the text, by its ISO 639 code: en, de, uk, zh. Paragraphs are split into
    sentences by its rules; None: by those of English."""
    deduplicate: Literal["none", "exact", "near"] = "none"
    """Drop documents of the same text as an earlier one, or of nearly the same."""
    near_duplicate_similarity: float = 0.8
    """Share of five-word runs that near duplicates have in common (Jaccard, by MinHash)."""
    tokenizer: str = "word"
    """Kind of vocabulary to train (word, wordpiece, bpe or unigram), or the folder of a tokenizer
    to use, or of a run or store that has one."""
    vocab_size: int = 30522
    """Most entries that a vocabulary is trained to; words are bounded by frequency instead."""
    min_frequency: int = 5
    """Times a word (or a pair of pieces) must be seen to enter the vocabulary."""
    lowercase: bool = True
    """Whether text is lower-cased."""
    strip_accents: bool | None = None
    """Whether accents are stripped; None: of English in lower-cased WordPieces (as BERT), which
    is English by `language`, or without it a text with few accents."""
    unicode_normalization: Literal["none", "nfc", "nfkc"] = "none"
    """Unicode form that text is brought to before anything else."""
    pre_tokenization: Literal["words", "scripts", "characters"] = "words"
    """What pieces may not cross: spaces and punctuation; changes of script as well; or, of scripts
    written without spaces (Thai, Khmer, Lao, Burmese, Japanese, Chinese), any character."""
    tokenizer_sample_bytes: int = 100_000_000
    """Most bytes of text that a vocabulary is trained on, drawn by document; 0: all of it."""

    def __post_init__(self) -> None:
        check_types(self)
        object.__setattr__(self, "encoding", encoding_name(self.encoding))
        positive(self, "min_frequency")
        fraction(self, "max_bad_rows", "near_duplicate_similarity")
        fraction(self, "validation_fraction", below_one=True)
        if not self.corpus:
            raise ConfigError("`corpus` must name a corpus or a path; got nothing.")
        if not self.tokenizer:
            raise ConfigError(f"`tokenizer` must be {', '.join(TOKENIZERS)} or a folder.")
        if self.language is not None and not re.fullmatch(
            r"[a-z]{2,3}(-[A-Za-z0-9]+)*", self.language
        ):
            raise ConfigError(
                f"`language` must be an ISO 639 code such as en or de; got {self.language!r}."
            )
        if self.vocab_size < 16:
            raise ConfigError(f"`vocab_size` must be at least 16 entries; got {self.vocab_size}.")
        if self.tokenizer_sample_bytes < 0:
            raise ConfigError(
                f"`tokenizer_sample_bytes` must not be negative; got {self.tokenizer_sample_bytes}."
            )
        if self.near_duplicate_similarity < _LEAST_SIMILARITY:
            raise ConfigError(
                f"`near_duplicate_similarity` must be at least {_LEAST_SIMILARITY}; "
                f"got {self.near_duplicate_similarity}."
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From a token store to batches: examples and masks."""

    objective: Literal["mlm+nsp", "mlm"] = "mlm+nsp"
    """Masked words and next sentences on pairs, or masked words alone on single segments."""
    max_length: int = 64
    """Longest sequence in tokens, [CLS] and [SEP] counted; longer pairs are cut, segments split."""
    pairing: Literal["adjacent", "filled"] = "adjacent"
    """Two adjacent sentences, or several each side that fill the length (original BERT)."""
    short_pair_probability: float = 0.1
    """Share of filled pairs that are made shorter than the length allows."""
    mlm_probability: float = 0.15
    """Share of tokens to predict in training; evaluation always uses 0.15."""
    masking: Literal["token", "whole-word", "span"] = "token"
    """What is masked at once in training: a token, a word, or a run of words (SpanBERT)."""

    def __post_init__(self) -> None:
        check_types(self)
        fraction(self, "short_pair_probability")
        fraction(self, "mlm_probability", below_one=True)
        if self.max_length < 8:
            raise ConfigError(f"`max_length` must be at least 8 tokens; got {self.max_length}.")
        if self.mlm_probability == 0:
            raise ConfigError("`mlm_probability` must be over 0; got 0.0.")


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The budget, the optimizer, the device, and what is logged, validated and kept."""

    steps: int | None = None
    """Budget in optimizer steps. Give one budget at most."""
    epochs: float | None = None
    """Budget in passes over the training pairs."""
    pairs: int | None = None
    """Budget in sentence pairs."""
    tokens: int | None = None
    """Budget in tokens, [CLS] and [SEP] counted."""
    minutes: float | None = None
    """Budget in minutes of training."""
    init_from: str | None = None
    """A BERT to begin from, with its tokenizer: a run, a checkpoint, or a Hugging Face folder."""
    batch_size: int = 128
    """Sentence pairs an optimizer step."""
    micro_batch: int | Literal["auto"] = "auto"
    """Tokens in memory at once; changes memory, speed and how sums round. auto: what fits."""
    recompute: bool = False
    """Do each layer's forward pass twice, to keep a small part of it in memory."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """On several ranks: each has the whole model, or a part of all weights and moments."""
    optimizer: Literal["muon", "adamw", "adam"] = "adamw"
    """Muon for the matrices inside the layers and AdamW for the rest; AdamW; the chapter's Adam."""
    learning_rate: float = 2e-3
    """Peak learning rate; beside Muon, of the rest."""
    muon_learning_rate: float = 0.01
    """Peak learning rate of the matrices that Muon updates."""
    muon_momentum: float = 0.95
    """Decay of Muon's running mean of the gradient."""
    adam_beta1: float = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: float = 0.98
    """Decay of the squared gradient's running mean."""
    adam_epsilon: float = 1e-6
    """Added to the root of the squared gradient's mean."""
    weight_decay: float = 0.01
    """Weight decay of matrices; biases and norms have none."""
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """What the learning rate does after the warm-up: falls to 0, or stays."""
    warmup_ratio: float = 0.1
    """Share of the budget over which the learning rate rises from 0."""
    mlm_bias_init: Literal["frequency", "zero"] = "frequency"
    """Where the MLM head begins: at the words' log frequencies in the training text, or at 0."""
    attention_init: Literal["near", "normal"] = "normal"
    """Where attention begins: half of the first layer looks at neighbours, or all is drawn. A run
    with `init_from` begins as the model is."""
    max_grad_norm: float = 1.0
    """The gradient's norm is clipped to this; 0 switches clipping off."""
    seed: int = 0
    """Weights, dropout, order, pairs and masks follow from it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train; auto takes CUDA, then MPS, then the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the matrix products; auto is bfloat16 on CUDA, else float32."""
    compile: Literal["auto", "off"] = "auto"
    """Whether training steps are compiled and captured as CUDA graphs: auto, on one CUDA device in
    bfloat16 without dropout of attention, and in runs that are long enough to repay a minute."""
    log_every: int = 1
    """Steps between two lines of metrics.jsonl; a line holds the mean of its steps."""
    validate_every: int | None = None
    """Steps between two validations; None: about ten in a run."""
    validation_pairs: int = 1024
    """Most pairs of a validation during the run; the last one takes them all."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints; None: about four in a run."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    keep_every: int | None = None
    """Checkpoints after a multiple of so many steps are kept as well; None: no others."""
    max_rollbacks: int = 3
    """Times a run whose loss diverges goes back to a checkpoint and leaves the batch out."""
    spike_factor: float = 2.0
    """A loss over so many times its running mean (and a nat above it) is divergence; 0: never."""

    def __post_init__(self) -> None:
        check_types(self)
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"A run has one budget; got {' and '.join(given)}. Keep one.")
        positive(self, *given, "batch_size", "adam_epsilon")
        positive(self, "learning_rate", "muon_learning_rate")
        positive(self, "log_every", "validation_pairs", "keep_checkpoints")
        if self.micro_batch != "auto":
            positive(self, "micro_batch")
        for name in ("validate_every", "checkpoint_every", "keep_every"):
            if getattr(self, name) is not None:
                positive(self, name)
        fraction(self, "warmup_ratio")
        fraction(self, "adam_beta1", "adam_beta2", "muon_momentum", below_one=True)
        for name in ("weight_decay", "max_grad_norm", "seed", "max_rollbacks", "spike_factor"):
            if getattr(self, name) < 0:
                raise ConfigError(f"`{name}` must not be negative; got {getattr(self, name)}.")
        if self.seed >= 2**63:
            raise ConfigError(f"`seed` must be under 2**63; got {self.seed}.")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All that repeats a run: the sections, and which preset and recipe they began as."""

    preset: str = "textbook"
    recipe: str = "default"
    preparation: PreparationConfig = field(default_factory=PreparationConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.data.max_length > self.model.max_position_embeddings:
            raise ConfigError(
                "`max_length` must be within `max_position_embeddings` "
                f"({self.model.max_position_embeddings}); got {self.data.max_length}. "
                "Set both to train on longer sequences."
            )
        if self.data.objective != "mlm" and self.model.type_vocab_size < 2:
            raise ConfigError("`type_vocab_size` must be at least 2 to tell A from B; got 1.")


SECTIONS: dict[str, type] = {
    "preparation": PreparationConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
}


def section_of(name: str) -> str:
    """The section that holds the field `name`. Raises: `ConfigError` with the nearest names."""
    for section, cls in SECTIONS.items():
        if name in _types(cls):
            return section
    known = [entry.name for cls in SECTIONS.values() for entry in fields(cls)]
    raise ConfigError(f"There is no setting `{name}`; {near(name, known)}")


def _types(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def check_types(config: Any) -> None:
    """Hold every field to its annotation, and turn a whole number into a float where one belongs.

    TOML and Python callers are not held to annotations by anyone else; a string where a number
    belongs would otherwise surface as a traceback deep in training.
    """
    for name, expected in _types(type(config)).items():
        value = getattr(config, name)
        options = typing.get_args(expected)
        if typing.get_origin(expected) is Literal:
            if value not in options:
                raise ConfigError(f"`{name}` has no choice {value!r}; {near(str(value), options)}")
            continue
        if expected == tuple[int, ...]:
            numbers = [value] if isinstance(value, int) else value
            if not isinstance(numbers, list | tuple) or not all(
                isinstance(number, int) and not isinstance(number, bool) for number in numbers
            ):
                raise ConfigError(f"`{name}` must be whole numbers; got {value!r}.")
            object.__setattr__(config, name, tuple(numbers))
            continue
        if expected == tuple[str, ...]:
            texts = [value] if isinstance(value, str) else value
            if not isinstance(texts, list | tuple) or not all(
                isinstance(text, str) and text for text in texts
            ):
                raise ConfigError(f"`{name}` must be names or paths, none empty; got {value!r}.")
            object.__setattr__(config, name, tuple(texts))
            continue
        if value is None and type(None) in options:
            continue
        words = [word for option in options for word in typing.get_args(option)]
        if value in words:
            continue
        kind = next((option for option in options if option is not type(None)), expected)
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            object.__setattr__(config, name, value := float(value))
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"`{name}` must be of type {kind.__name__}; got {value!r}.")
        if kind is float and not math.isfinite(value):
            raise ConfigError(f"`{name}` must be a finite number; got {value}.")


def encoding_name(name: str) -> str:
    """Python's own name of an encoding of text. Raises: `ConfigError`."""
    try:
        "text".encode(name)  # encodings that are not of text are refused here
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise ConfigError(
            f"`encoding` must be an encoding of text such as windows-1252, utf-16, gbk or "
            f"shift_jis; got {name!r}."
        ) from error


def positive(config: Any, *names: str) -> None:
    """Raise `ConfigError` for a field that is 0 or less."""
    for name in names:
        if getattr(config, name) <= 0:
            raise ConfigError(f"`{name}` must be over 0; got {getattr(config, name)}.")


def fraction(config: Any, *names: str, below_one: bool = False) -> None:
    """Raise `ConfigError` for a field that is not from 0 to 1."""
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1 or (below_one and value == 1):
            bound = "under 1" if below_one else "at most 1"
            raise ConfigError(f"`{name}` must be at least 0 and {bound}; got {value}.")
