"""What the rest of the package asks of an architecture: its network, its names, what it costs.

Legend: B = sequences; T = tokens of all of them; M = masked tokens; R = rows that are wanted of the
last layer; H = hidden size; V = vocabulary; K = outputs of a classifier.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bertsmith.batch import Batch
from bertsmith.config import ModelConfig
from bertsmith.nn.layout import PackedInput, TokenSubset

MLM_HEAD, POOLER, NSP_HEAD = "mlm_head", "pooler", "nsp_head"
CLASSIFIER, TOKEN_CLASSIFIER = "classifier", "token_classifier"
"""Names of the heads that objectives and fine-tuning ask for; each is a module of the network."""

OF_FINE_TUNING = frozenset({CLASSIFIER, TOKEN_CLASSIFIER})
"""Those of them that pretraining has not."""


Shape = TypeVar("Shape", bound=ModelConfig)
"""The class of an architecture's shapes."""


def call_module(module: nn.Module, *arguments: Any) -> Tensor:
    """`module(*arguments)`."""
    output: Tensor = module(*arguments)
    return output


class MlmProjection(NamedTuple):
    """What the logits of the vocabulary are the product of: hidden · weightᵀ + bias."""

    hidden: Tensor
    """float [M, H]."""
    weight: Tensor
    """float [V, H]."""
    bias: Tensor
    """float [V]."""


class Encoder(nn.Module, ABC):
    """A network with the heads that were asked for.

    Attributes:
        config: its shape.
        vocab_size: V; rows of the embedding matrix.
        heads: those of `MLM_HEAD`, `POOLER`, `NSP_HEAD`, `CLASSIFIER` and `TOKEN_CLASSIFIER` that
            it has, as modules of these names.
        num_labels: K; 0 without a classifier.
        layers: whose parameters FSDP shards one layer at a time.
        recomputes: activation checkpointing: a layer keeps its input, and makes its activations
            again in the backward pass.
    """

    config: ModelConfig
    vocab_size: int
    heads: frozenset[str]
    num_labels: int
    layers: nn.ModuleList
    recomputes = False

    @abstractmethod
    def forward(
        self,
        inputs: PackedInput,
        subset: TokenSubset | None = None,
        call: Callable[..., Tensor] = call_module,
    ) -> Tensor:
        """The hidden states of the last layer.

        Args:
            inputs: T tokens.
            subset: the tokens whose vectors are wanted; None: all.
            call: how the embeddings and each layer are called: `call(module, *arguments)`. Compiled
                once, it serves all layers, since they differ in nothing but their tensors.

        Returns:
            [R, H].
        """

    @abstractmethod
    def initialize(self, seed: int, *, looks_near: bool = False) -> None:
        """Draw the weights, the same ones whatever the device.

        Args:
            seed: of what is drawn.
            looks_near: begin with heads that look at the positions around a token, where the
                architecture has such a beginning.
        """

    @abstractmethod
    def hidden_matrices(self) -> dict[str, int]:
        """Names of the weights that map hidden states to hidden states, of layers and the MLM head.

        Muon updates them. Each with the number of matrices that are stacked in it along its rows:
        query, key and value are 3 in one. The matrix of the vocabulary is none of them.
        """

    @property
    @abstractmethod
    def dropout_sites(self) -> int:
        """How many dropouts there are; a task's own dropout takes the next number."""

    @abstractmethod
    def mlm_projection(self, hidden: Tensor) -> MlmProjection:
        """The MLM head on the rows given, [M, H], but for the product with the vocabulary."""

    @property
    @abstractmethod
    def word_embedding(self) -> Tensor:
        """The vectors of the vocabulary's entries, float32 [V, H]."""

    @property
    @abstractmethod
    def mlm_bias(self) -> nn.Parameter:
        """The bias of the vocabulary's logits, float32 [V]."""

    @property
    def pools_all(self) -> bool:
        """Whether a classifier reads the mean of a sequence's vectors; else that of [CLS]."""
        return False

    @abstractmethod
    def pool(self, vectors: Tensor) -> Tensor:
        """What stands before the outputs for sequences, on a vector of each: [B, H] → [B, H]."""

    def nsp_logits(self, pooled: Tensor) -> Tensor:
        """[B, H] → [B, 2]; 0 = B follows A, 1 = B is random. Of those that have `NSP_HEAD`."""
        raise NotImplementedError

    @abstractmethod
    def class_logits(self, pooled: Tensor) -> Tensor:
        """[B, H] → [B, K]: of classes, or a score."""

    def before_token_classifier(self, hidden: Tensor) -> Tensor:
        """What stands between the last layer and the outputs for tokens: [T, H] → [T, H]."""
        return hidden

    def token_logits(self, hidden: Tensor) -> Tensor:
        """[T, H] → [T, K]: of the classes of tokens. Of those that have `TOKEN_CLASSIFIER`."""
        logits: Tensor = self.get_submodule(TOKEN_CLASSIFIER)(hidden)
        return logits

    def call_layer(self, call: Callable[..., Tensor], layer: nn.Module, *arguments: Any) -> Tensor:
        """`call(layer, *arguments)`, under activation checkpointing if the network recomputes."""
        if not (self.recomputes and torch.is_grad_enabled()):
            return call(layer, *arguments)
        # Dropout follows from counters: there is no generator's state to put back.
        output: Tensor = checkpoint(
            layer, *arguments, use_reentrant=False, preserve_rng_state=False
        )
        return output

    def mlm_logits(self, hidden: Tensor) -> Tensor:
        """Scores of every vocabulary entry at the rows given: [M, H] → [M, V]."""
        return F.linear(*self.mlm_projection(hidden))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(self, *arguments)`.

        Where the weights are spread over ranks they are gathered meanwhile, heads included; a call
        of the module itself would give those of the heads back before they were used.
        """
        return function(self, *arguments)


class Work(Protocol):
    """What the arithmetic of some batches goes by; `Batch` and `Sums` are such."""

    @property
    def num_tokens(self) -> int:
        """T, padding left out."""

    @property
    def num_squared(self) -> int:
        """The sum of the squared lengths, for attention."""

    @property
    def num_masked(self) -> int:
        """M."""

    @property
    def num_sequences(self) -> int:
        """B."""


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """What is in memory at once: sequences of one length."""

    num_sequences: int
    length: int
    num_masked: int
    """Tokens to predict in each sequence."""
    device_type: str = "cpu"
    """cpu, cuda or mps."""
    is_half: bool = False
    """Whether products are in bfloat16; else in float32."""

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.num_sequences * self.length


class Architecture(ABC, Generic[Shape]):
    """A family of networks.

    Attributes:
        name: `--architecture`, and `model_type` in config.json.
        config_class: the class of its shapes; its fields are the settings of [model].
        heads: heads that its networks can have, in a Hugging Face folder the prefix of the names of
            each one's weights; a folder may lack any of them.
        token_ids: which special tokens' ids config.json says, as `pad_token_id`: pad, cls, sep, bos
            (which is cls) and eos (which is sep).
    """

    name: str
    config_class: type[Shape]
    heads: Mapping[str, str]
    token_ids: Sequence[str] = ("pad",)

    @abstractmethod
    def build(
        self, config: Shape, vocab_size: int, heads: frozenset[str], num_labels: int
    ) -> Encoder:
        """A network with these heads; its weights are drawn later."""

    @abstractmethod
    def transformers_class(self, heads: frozenset[str]) -> str:
        """The `transformers` class of a network with these heads."""

    @abstractmethod
    def read_config(self, found: Mapping[str, Any]) -> Shape:
        """The shape that a config.json says. Raises: `ConfigError` if this package has no such."""

    @abstractmethod
    def write_config(self, config: Shape) -> dict[str, Any]:
        """What config.json says of the shape."""

    @abstractmethod
    def hugging_face_names(self, name: str) -> list[str]:
        """Names in a Hugging Face folder of our parameter `name`.

        Several where ours has their matrices stacked along its rows.
        """

    def canonical(self, name: str) -> str:
        """The name that `hugging_face_names` gives, of a name found in a folder."""
        return name

    @abstractmethod
    def training_flops(self, config: Shape, vocab_size: int, work: Work) -> int:
        """Floating-point operations of the matrix products, forward and backward.

        Real tokens only, the vocabulary at masked positions only; a multiply and an add are two,
        and a backward pass is two forward ones. What is no matrix product (softmax, norms) is not
        counted, nor is any product that is made twice. This is the work of the model as it is
        defined, all of its layers at all tokens: the measure of utilisation that others give, too.
        Training leaves out `skipped_flops` of it.
        """

    @abstractmethod
    def skipped_flops(self, config: Shape, batch: Batch) -> int:
        """The part of `training_flops` that is left out: the last layer where no head reads it."""

    @abstractmethod
    def layer_bytes(self, config: Shape, batch: MicroBatch, num_wanted: int | None = None) -> int:
        """What one layer keeps for the backward pass.

        Args:
            config: the network's shape.
            batch: on the device at once.
            num_wanted: of so many tokens of each sequence its vectors are read; None: of all.
        """

    @abstractmethod
    def activation_bytes(
        self, config: Shape, vocab_size: int, batch: MicroBatch, *, recomputes: bool = False
    ) -> int:
        """What the forward pass keeps until the backward pass has used it.

        Args:
            config, batch: as in `layer_bytes`.
            vocab_size: V.
            recomputes: activation checkpointing.
        """

    @abstractmethod
    def working_bytes(self, config: Shape, vocab_size: int, batch: MicroBatch) -> int:
        """What is taken for a moment only, where that is most: by the loss, or by a layer's
        backward pass; `config`, `vocab_size` and `batch` are as in `activation_bytes`.
        """
