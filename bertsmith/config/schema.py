"""The settings of a run: every field, its meaning, its unit, its default and what must hold.

Four frozen sections: `PreparationConfig`, `DataConfig`, `ModelConfig` (in `models.py`, a class for
each architecture) and `TrainingConfig`, under one `PretrainConfig`. No field name stands in two
sections, so that a flag, a keyword and a line of TOML mean the same setting. The command line and
its help are generated from these classes: the text under a field is its help. Bounds, what a
setting changes nothing without, and whether a resumed run may change it stand in `setting`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from bertsmith.config.fields import (
    Given,
    check,
    encoding_name,
    nearest,
    parse_counts,
    rules_of,
    setting,
    types_of,
)
from bertsmith.config.models import MODEL_CONFIGS, BertConfig, ModelConfig
from bertsmith.config.registered import (
    ARCHITECTURES_THAT_LOOK_NEAR,
    MASKINGS,
    OBJECTIVES,
    OPTIMIZERS,
    PAIR_OBJECTIVES,
    TRACKERS,
)
from bertsmith.errors import ConfigError

BUDGETS = ("steps", "epochs", "pairs", "tokens", "minutes")
"""Fields of `TrainingConfig` that say when training ends; a run sets one of them."""

TOKENIZERS = ("word", "wordpiece", "bpe", "unigram")
"""Kinds of vocabulary that are trained."""

_TRAINED = {"tokenizer": TOKENIZERS}
_MUON = {"optimizer": ("muon",)}
_OWN_OPTIMIZERS = {"optimizer": ("muon", "adamw", "adam")}


@dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """From text to a token store: sources, documents, sentences, the tokenizer."""

    corpus: tuple[str, ...] = ("wikitext-2",)
    """A corpus by name (`bertsmith corpora` lists them), files, folders, archives, patterns or
    addresses of text, a Hugging Face dataset (`hf:owner/name`), the folder of a prepared store, or
    - (standard input, to prepare it)."""
    validation: tuple[str, ...] = ()
    """Text to validate on, named as the corpus is; without it, a part of the corpus is held out."""
    validation_fraction: float = setting(0.05, ge=0, lt=1, needs={"validation": ((),)})
    """Share of documents held out for validation where the corpus has no validation split."""
    encoding: str = "utf-8"
    """Encoding of text files and tables (windows-1252, utf-16, gbk, shift_jis, …); where a
    byte-order mark says another, that holds."""
    text_column: str = "text"
    """Column of tables (JSON, CSV, TSV, Parquet, datasets) that holds the text; a.b is a field."""
    max_bad_rows: float = setting(0.01, ge=0, le=1)
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
    # Under a half the bands of a signature no longer find what is alike.
    near_duplicate_similarity: float = setting(0.8, ge=0.5, le=1, needs={"deduplicate": ("near",)})
    """Share of five-word runs that near duplicates have in common (Jaccard, by MinHash)."""
    tokenizer: str = "word"
    """Kind of vocabulary to train (word, wordpiece, bpe or unigram), or the folder of a tokenizer
    to use, or of a run or store that has one."""
    add_tokens: str | None = None
    """A file of words, one a line, that become entries of a tokenizer taken from a folder."""
    vocab_size: int = setting(30522, ge=16, needs={"tokenizer": ("wordpiece", "bpe", "unigram")})
    """Most entries that a vocabulary is trained to; words are bounded by frequency instead."""
    min_frequency: int = setting(5, gt=0, needs={"tokenizer": ("word", "wordpiece", "bpe")})
    """Times a word (or a pair of pieces) must be seen to enter the vocabulary."""
    lowercase: bool = setting(True, needs=_TRAINED)
    """Whether text is lower-cased."""
    strip_accents: bool | None = setting(None, needs=_TRAINED)
    """Whether accents are stripped; None: of English in lower-cased WordPieces (as BERT), which
    is English by `language`, or without it a text with few accents."""
    unicode_normalization: Literal["none", "nfc", "nfkc"] = setting("none", needs=_TRAINED)
    """Unicode form that text is brought to before anything else."""
    pre_tokenization: Literal["words", "scripts", "characters"] = setting("words", needs=_TRAINED)
    """What pieces may not cross: spaces and punctuation; changes of script as well; or, of scripts
    written without spaces (Thai, Khmer, Lao, Burmese, Japanese, Chinese), any character."""
    tokenizer_sample_bytes: int = setting(100_000_000, ge=0, needs=_TRAINED)
    """Most bytes of text that a vocabulary is trained on, drawn by document; 0: all of it."""

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "encoding", encoding_name(self.encoding))
        if not self.corpus:
            raise ConfigError("`corpus` must name a corpus or a path; got nothing.")
        if not self.tokenizer:
            raise ConfigError(f"`tokenizer` must be {', '.join(TOKENIZERS)} or a folder.")
        if self.add_tokens is not None and self.tokenizer in TOKENIZERS:
            raise ConfigError(
                "`add_tokens` must have a tokenizer to add to, of a model (--init-from) or a "
                f"folder (--tokenizer); got `tokenizer` {self.tokenizer}, which is trained."
            )
        if self.language is not None and not re.fullmatch(
            r"[a-z]{2,3}(-[A-Za-z0-9]+)*", self.language
        ):
            raise ConfigError(
                f"`language` must be an ISO 639 code such as en or de; got {self.language!r}."
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """From a token store to batches: examples and masks."""

    objective: str = setting("mlm+nsp", choices=OBJECTIVES)
    """mlm+nsp: masked words and next sentences on pairs; mlm: masked words on single segments."""
    max_length: int = setting(64, ge=8)
    """Longest sequence in tokens, [CLS] and [SEP] counted; longer pairs are cut, segments split."""
    first_max_length: int | None = setting(None, ge=8)
    """Longest sequence in the first part of a run, as BERT was trained at 128 and then at 512; the
    budget must be in steps, epochs or pairs. None: `max_length` from the beginning."""
    first_length_ratio: float = setting(0.9, gt=0, lt=1, needs={"first_max_length": Given()})
    """Share of the steps that this part has."""
    pairing: Literal["adjacent", "filled"] = setting(
        "adjacent", needs={"objective": PAIR_OBJECTIVES}
    )
    """Two adjacent sentences, or several each side that fill the length (original BERT)."""
    short_pair_probability: float = setting(
        0.1, ge=0, le=1, needs={"objective": PAIR_OBJECTIVES, "pairing": ("filled",)}
    )
    """Share of filled pairs that are made shorter than the length allows."""
    mlm_probability: float = setting(0.15, gt=0, lt=1)
    """Share of tokens to predict in training; evaluation always uses 0.15."""
    mlm_probability_end: float | None = setting(None, gt=0, lt=1)
    """That share at the end of the run, to which it goes in a straight line; None: it stays. The
    budget must be in steps, epochs or pairs."""
    masking: Literal["token", "whole-word", "span"] = setting("token", choices=MASKINGS)
    """What is masked at once in training: token, whole-word, or span (a run of words, SpanBERT)."""

    def __post_init__(self) -> None:
        check(self)
        if self.first_max_length is not None and self.first_max_length >= self.max_length:
            raise ConfigError(
                f"`first_max_length` must be under `max_length` ({self.max_length}); got "
                f"{self.first_max_length}."
            )

    def of_length(self, max_length: int) -> DataConfig:
        """The same with sequences of one length from beginning to end."""
        return replace(self, max_length=max_length, first_max_length=None)

    @property
    def is_pairs(self) -> bool:
        """Whether examples are sentence pairs; else they are single segments."""
        return self.objective in PAIR_OBJECTIVES

    @property
    def largest_mlm_probability(self) -> float:
        """The share of tokens to predict where that is most."""
        return max(self.mlm_probability, self.mlm_probability_end or 0.0)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The budget, the optimizer, the device, and what is logged, validated and kept."""

    steps: int | None = setting(None, gt=0, may_change=True)
    """Budget in optimizer steps. Give one budget at most."""
    epochs: float | None = setting(None, gt=0, may_change=True)
    """Budget in passes over the training pairs."""
    pairs: int | None = setting(None, gt=0, may_change=True)
    """Budget in sentence pairs."""
    tokens: int | None = setting(None, gt=0, may_change=True)
    """Budget in tokens, [CLS] and [SEP] counted."""
    minutes: float | None = setting(None, gt=0, may_change=True)
    """Budget in minutes of training."""
    init_from: str | None = None
    """A model to begin from, with its tokenizer: a run, a checkpoint, a Hugging Face folder, or
    hf:owner/name (and maybe @revision) on its hub."""
    batch_size: int = setting(128, gt=0)
    """Sentence pairs an optimizer step."""
    batch_size_end: int | None = setting(None, gt=0)
    """Sentence pairs a step at the end of the run, to which their number goes in a straight line;
    None: it stays."""
    micro_batch: int | Literal["auto"] = setting("auto", gt=0, may_change=True)
    """Tokens in memory at once; changes memory, speed and how sums round. auto: what fits."""
    recompute: bool = setting(False, may_change=True)
    """Do each layer's forward pass twice, to keep a small part of it in memory."""
    parallel: Literal["ddp", "fsdp"] = setting("ddp", may_change=True)
    """On several ranks: each has the whole model, or a part of all weights and moments."""
    optimizer: Literal["muon", "adamw", "adam"] = setting("adamw", choices=OPTIMIZERS)
    """muon: for the matrices of the layers and of the MLM head, AdamW for the rest; adamw; adam:
    the chapter's."""
    learning_rate: float = setting(2e-3, gt=0)
    """Peak learning rate; beside Muon, of the rest."""
    embedding_learning_rate: float | None = setting(None, gt=0, needs=_OWN_OPTIMIZERS)
    """Peak learning rate of the embeddings, which the MLM head shares; None: `learning_rate`."""
    scalar_learning_rate: float | None = setting(None, gt=0, needs=_OWN_OPTIMIZERS)
    """Peak learning rate of biases and norms; None: `learning_rate`."""
    muon_learning_rate: float = setting(0.01, gt=0, needs=_MUON)
    """Peak learning rate of the matrices that Muon updates."""
    muon_momentum: float = setting(0.95, ge=0, lt=1, needs=_MUON)
    """Decay of Muon's running mean of the gradient."""
    adam_beta1: float = setting(0.9, ge=0, lt=1)
    """Decay of the gradient's running mean."""
    adam_beta2: float = setting(0.98, ge=0, lt=1)
    """Decay of the squared gradient's running mean."""
    adam_epsilon: float = setting(1e-6, gt=0)
    """Added to the root of the squared gradient's mean."""
    weight_decay: float = setting(0.01, ge=0)
    """Weight decay of matrices; biases and norms have none."""
    lr_scheduler_type: Literal["linear", "cosine", "constant", "warmup_stable_decay"] = "linear"
    """What the learning rate does after the warm-up: falls to 0, stays, or stays and then falls."""
    warmup_ratio: float = setting(0.1, ge=0, le=1)
    """Share of the budget over which the learning rate rises from 0."""
    decay_ratio: float = setting(
        0.2,
        gt=0,
        le=1,
        needs={"lr_scheduler_type": ("warmup_stable_decay",)},
        may_change=True,
    )
    """Share of the budget, at its end, over which it then falls to 0."""
    averaging: Literal["none", "exponential", "tail"] = "none"
    """Mean of the weights that is evaluated and saved as the model: exponential, or that of the
    last steps."""
    averaging_decay: float = setting(0.999, gt=0, lt=1, needs={"averaging": ("exponential",)})
    """What a step leaves of the exponential mean; less in the first steps."""
    tail_ratio: float = setting(0.1, gt=0, le=1, needs={"averaging": ("tail",)})
    """Share of the budget, at its end, whose steps the mean is of."""
    mlm_bias_init: Literal["frequency", "zero"] = "frequency"
    """Where the MLM head begins: at the words' log frequencies in the training text, or at 0."""
    attention_init: Literal["near", "normal"] = setting(
        "normal",
        needs={"init_from": (None,), "architecture": ARCHITECTURES_THAT_LOOK_NEAR},
    )
    """Where attention begins: half of the first layer looks at neighbours, or all is drawn. A run
    with `init_from` begins as the model is."""
    embedding_init: Literal["cooccurrence", "normal"] = setting(
        "normal", needs={"init_from": (None,)}
    )
    """Where word embeddings begin: with vectors that say which tokens stand near each other in the
    training text, or drawn. A run with `init_from` begins as the model is."""
    max_grad_norm: float = setting(1.0, ge=0)
    """The gradient's norm is clipped to this; 0 switches clipping off."""
    seed: int = setting(0, ge=0, lt=2**63)
    """Weights, dropout, order, pairs and masks follow from it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", may_change=True)
    """Where to train; auto takes CUDA, then MPS, then the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the matrix products; auto is bfloat16 on CUDA and on CPUs that have it."""
    compile: Literal["auto", "off"] = setting("auto", may_change=True)
    """Whether training steps are compiled and captured as CUDA graphs: auto, on CUDA devices in
    bfloat16 without dropout of attention or FSDP, in runs that are long enough to repay a minute
    and whose batches have one size and length."""
    log_every: int = setting(1, gt=0, may_change=True)
    """Steps between two lines of metrics.jsonl; a line holds the mean of its steps."""
    validate_every: int | None = setting(None, gt=0, may_change=True)
    """Steps between two validations; None: about ten in a run."""
    validation_pairs: int = setting(1024, gt=0, may_change=True)
    """Most pairs of a validation during the run; the last one takes them all."""
    checkpoint_every: int | None = setting(None, gt=0, may_change=True)
    """Steps between two checkpoints; None: about four in a run."""
    keep_checkpoints: int = setting(2, gt=0, may_change=True)
    """Newest checkpoints that are kept."""
    keep_every: int | None = setting(None, gt=0, may_change=True)
    """Every so many steps there is a checkpoint that is kept as well; None: no others."""
    checkpoint_at_words: tuple[str, ...] = setting((), may_change=True)
    """Words of text after which there is a checkpoint that is kept as well: 1M 2M 10M. Words that
    are read again count again."""
    track: tuple[str, ...] = setting((), choices=TRACKERS, may_change=True)
    """Trackers of experiments that are told the settings, figures and examples of the run:
    tensorboard, wandb, trackio."""
    track_project: str = setting("bertsmith", may_change=True)
    """What the run belongs to there."""
    max_rollbacks: int = setting(3, ge=0, may_change=True)
    """Times a run whose loss diverges goes back to a checkpoint and leaves the batch out."""
    license: str | None = setting(None, may_change=True)
    """Licence of the model, as its card says it to the Hugging Face Hub: apache-2.0, cc-by-4.0."""
    spike_factor: float = setting(2.0, ge=0, may_change=True)
    """A loss over so many times its running mean (and a nat above it) is divergence; 0: never."""

    def __post_init__(self) -> None:
        check(self)
        given = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ConfigError(f"A run has one budget; got {' and '.join(given)}. Keep one.")
        parse_counts("checkpoint_at_words", self.checkpoint_at_words)
        if self.batch_size_end == self.batch_size:
            raise ConfigError(
                f"`batch_size_end` must differ from `batch_size`; both are {self.batch_size}. "
                "Leave it out."
            )

    @property
    def largest_batch(self) -> int:
        """Pairs of the largest step."""
        return max(self.batch_size, self.batch_size_end or 0)

    @property
    def smallest_batch(self) -> int:
        """Pairs of the smallest step."""
        return min(self.batch_size, self.batch_size_end or self.batch_size)

    def setting_of(self, batch: int) -> str:
        """The setting that says the size of a smallest or largest batch."""
        return "batch_size_end" if batch == self.batch_size_end else "batch_size"

    @property
    def mean_batch(self) -> float:
        """Pairs a step over the run."""
        return (self.batch_size + (self.batch_size_end or self.batch_size)) / 2


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All that repeats a run: the sections, and which preset and recipe they began as."""

    preset: str = "textbook"
    recipe: str = "default"
    preparation: PreparationConfig = field(default_factory=PreparationConfig)
    model: ModelConfig = field(default_factory=BertConfig)
    data: DataConfig = field(default_factory=DataConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.data.max_length > self.model.max_position_embeddings:
            raise ConfigError(
                "`max_length` must be within `max_position_embeddings` "
                f"({self.model.max_position_embeddings}); got {self.data.max_length}. "
                "Set both to train on longer sequences."
            )
        training = self.training
        scheduled = {
            "mlm_probability_end": self.data.mlm_probability_end,
            "first_max_length": self.data.first_max_length,
            "batch_size_end": training.batch_size_end,
        }
        for name, value in scheduled.items():
            if value is not None and (training.tokens or training.minutes):
                unit = "tokens" if training.tokens else "minutes"
                raise ConfigError(
                    f"`{name}` must have a budget in steps, epochs or pairs, by which a "
                    f"batch can tell how far the run is; got `{unit}`."
                )
        if self.data.is_pairs and self.model.num_segments < 2:
            raise ConfigError(
                f"`objective` {self.data.objective} tells two texts apart: the model must have at "
                f"least 2 segment embeddings; this {self.model.architecture} has "
                f"{self.model.num_segments}. Choose mlm."
            )

    @property
    def lays_out_batches(self) -> bool:
        """Whether batches change in size or length over the budget, which is then fixed."""
        return self.training.batch_size_end is not None or self.data.first_max_length is not None


SECTIONS: dict[str, type] = {
    "preparation": PreparationConfig,
    "data": DataConfig,
    "model": ModelConfig,
    "training": TrainingConfig,
}
"""A run's `model` is of one of the classes under `ModelConfig`."""


def section_classes() -> list[type]:
    """The classes of all sections, those of all architectures among them."""
    return [*SECTIONS.values(), *MODEL_CONFIGS.values()]


MAY_CHANGE = frozenset(
    name for cls in section_classes() for name, rules in rules_of(cls).items() if rules.may_change
)
"""Fields that a resumed run may have otherwise than before; the others say what is computed."""


def section_of(name: str) -> str:
    """The section that holds the field `name`. Raises: `ConfigError` with the nearest names."""
    for section, cls in SECTIONS.items():
        if name in types_of(cls):
            return section
    if any(name in types_of(cls) for cls in MODEL_CONFIGS.values()):
        return "model"
    known = dict.fromkeys(entry.name for cls in section_classes() for entry in fields(cls))
    raise ConfigError(f"There is no setting `{name}`; {nearest(name, known)}")
