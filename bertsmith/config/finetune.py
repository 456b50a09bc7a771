"""The settings of fine-tuning and probing: what labelled texts mean, how they are learnt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bertsmith.config.fields import check, encoding_name, setting
from bertsmith.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LabelledConfig:
    """How a table is read, which columns hold texts and labels, and what the labels are."""

    encoding: str = "utf-8"
    """Encoding of tables (windows-1252, utf-16, gbk, shift_jis, …); where a byte-order mark says
    another, that holds."""
    delimiter: str | None = None
    """Character between the columns of .csv and .tsv; None: a comma, a tab."""
    text_column: str | None = None
    """Column of the text; None: by the names that are usual (GLUE's among them)."""
    text_pair_column: str | None = None
    """Column of a second text, if `text_column` is named as well."""
    label_column: str | None = None
    """Column of the label; None: by the names that are usual."""
    task: Literal["auto", "classes", "scores", "tokens", "similarity"] = "auto"
    """Whether labels are classes or scores (auto: numbers with a decimal point are scores); tokens:
    a tag for each word; similarity: vectors by which texts that belong together are near."""
    label_names: tuple[str, ...] = ()
    """Names of the classes 0, 1, … if the labels are these numbers."""
    max_bad_rows: float = setting(0.01, ge=0, le=1)
    """Largest share of rows that may lack a column; they are left out."""

    def __post_init__(self) -> None:
        check(self)
        object.__setattr__(self, "encoding", encoding_name(self.encoding))
        if self.delimiter == "\\t":  # as shells hand it on
            object.__setattr__(self, "delimiter", "\t")
        if self.delimiter is not None and (len(self.delimiter) != 1 or self.delimiter in '"\r\n\0'):
            raise ConfigError(
                f"`delimiter` must be one character, as ; or | or \\t; got {self.delimiter!r}."
            )
        if self.text_pair_column is not None and self.text_column is None:
            raise ConfigError("`text_pair_column` needs `text_column` beside it; name both.")
        if len(set(self.label_names)) < len(self.label_names):
            raise ConfigError(f"`label_names` must differ; got {', '.join(self.label_names)}.")


@dataclass(frozen=True, kw_only=True)
class SimilarityConfig:
    """What vectors of texts are, and how they are learnt by contrast (`task` similarity)."""

    negative_column: str | None = None
    """Column of a text that is wrong for its row's query; None: the other rows' texts alone are."""
    pooling: Literal["mean", "cls"] = "mean"
    """What stands for a text: the mean over its tokens, or the vector of [CLS]."""
    normalize: bool = True
    """Whether vectors are brought to length 1."""
    temperature: float = setting(0.05, gt=0)
    """That cosines are divided by; a lower one looks at the nearest wrong texts alone."""
    matryoshka: tuple[int, ...] = ()
    """Sizes that vectors may be cut to, and are trained for too."""

    def __post_init__(self) -> None:
        check(self)
        if min(self.matryoshka, default=1) < 1:
            raise ConfigError("`matryoshka` must be sizes of 1 or more.")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How an encoder is trained for a task."""

    seeds: tuple[int, ...] = (0,)
    """One training each; the classifier's first weights, the order and dropout follow from it."""
    epochs: int = setting(5, gt=0)
    """Most passes over the training rows."""
    batch_size: int | None = setting(None, gt=0)
    """Rows an optimizer step; None: 32, and for similarity 256, each of which is told apart from
    the others."""
    learning_rate: float | None = setting(None, gt=0)
    """Peak learning rate; None: by the width of the network, less for a wider one."""
    warmup_ratio: float = setting(0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises from 0; then it falls to 0."""
    weight_decay: float = setting(0.01, ge=0)
    """Weight decay of matrices; biases and norms have none."""
    max_grad_norm: float = setting(1.0, ge=0)
    """The gradient's norm is clipped to this; 0 switches clipping off."""
    dropout_prob: float = setting(0.1, ge=0, lt=1)
    """Dropout in the encoder and before the classifier."""
    class_weights: Literal["none", "balanced"] = "none"
    """Whether rare classes weigh more in the loss, by the inverse of their share."""
    metric: Literal["auto", "accuracy", "f1", "matthews", "spearman", "pearson"] = "auto"
    """What says which moment is the best; auto: accuracy of classes, Spearman of scores, F1 of
    tagged spans."""
    evaluations_per_epoch: int = setting(2, gt=0)
    """Times in an epoch that the validation rows are judged."""
    patience: int = setting(4, ge=0)
    """Evaluations without a better one after which training stops; 0: it never does."""
    max_length: int | None = setting(None, gt=0)
    """Longest sequence in tokens; None: as in pretraining. Longer texts are cut, and counted."""
    micro_batch: int | Literal["auto"] = setting("auto", gt=0, may_change=True)
    """Tokens in memory at once; changes memory, speed and how sums round. auto: what suits the
    device, and half where that does not fit in a GPU's memory."""
    license: str | None = setting(None, may_change=True)
    """Licence of the model, as its card says it to the Hugging Face Hub: apache-2.0, cc-by-4.0."""
    device: Literal["auto", "cpu", "cuda", "mps"] = setting("auto", may_change=True)
    """Where to train; auto takes CUDA, then MPS, then the CPU."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of the matrix products; auto is bfloat16 on CUDA and on CPUs that have it."""

    def __post_init__(self) -> None:
        check(self)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("`seeds` must be one number or several, all different.")
        if not all(0 <= seed < 2**63 for seed in self.seeds):
            raise ConfigError("`seeds` must be from 0 to 2**63 - 1.")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How a linear model is fitted to frozen vectors."""

    pooling: Literal["mean", "cls"] = "mean"
    """What stands for a text: the mean over its tokens, or the vector of [CLS]."""
    folds: int = setting(5, ge=2)
    """Parts of the cross-validation."""
    seed: int = setting(0, ge=0, lt=2**32)  # scikit-learn's bound
    """The folds, and the random encoder beside, follow from it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to encode; auto takes CUDA, then MPS, then the CPU."""

    def __post_init__(self) -> None:
        check(self)
