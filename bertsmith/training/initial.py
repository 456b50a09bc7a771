"""The first weights of a run: drawn, or those of a BERT that is there already."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bertsmith.architectures import MLM_HEAD, NSP_HEAD, Encoder, build
from bertsmith.config import PRESETS, FixedSettings, ModelConfig, PretrainConfig, resolve
from bertsmith.data.store import log_shares, word_counts
from bertsmith.display import Display
from bertsmith.errors import DataError
from bertsmith.nn.shards import put
from bertsmith.ranks import Ranks
from bertsmith.saved.hugging_face import (
    CONFIG_FILE,
    missing_heads,
    put_weights,
    read_config,
    read_json,
    read_weights,
    refuse_damaged,
    refuse_large_vocabulary,
)
from bertsmith.saved.locate import find_model, find_run_config, read_newest
from bertsmith.tokenizer import Tokenizer
from bertsmith.training.cooccurrence import word_embeddings
from bertsmith.training.prepare import Prepared

_OF_DATA = ("objective", "max_length", "pairing", "masking", "mlm_probability")
"""Of a run's examples, what its continuation begins with."""


def given_by_model(path: str | None) -> list[FixedSettings]:
    """What the model that a run begins from has decided; empty without one.

    Its shape and its tokenizer hold. The preset whose recipe is taken is that of its run, or the
    one whose width is nearest; its examples are those of its run.

    Raises:
        ModelError: `path` is not a BERT.
        TokenizerError: it has no tokenizer.
    """
    if path is None:
        return []
    return [read_newest(Path(path), lambda folder: _given_by(folder, Path(path)))]


def _given_by(folder: Path, path: Path) -> FixedSettings:
    shape, rows = read_config(folder)
    tokenizer = Tokenizer.load(folder, default_max_length=shape.max_position_embeddings)
    refuse_large_vocabulary(folder, tokenizer, rows)
    free = {*shape.dropouts, "initializer_range"}  # as the recipe of this training has it
    settings = {
        name: value
        for name, value in vars(shape).items()
        if name not in free and name not in shape.may_differ
    }
    run_config = find_run_config(path)
    defaults: dict[str, Any] = {name: getattr(shape, name) for name in shape.may_differ}
    defaults |= {"tokenizer": str(folder.resolve()), "attention_init": "normal"}
    defaults |= {"embedding_init": "normal"}
    if run_config is not None:
        run = resolve(file=run_config)
        preset = run.preset
        defaults |= {name: getattr(run.data, name) for name in _OF_DATA}
    else:
        preset = _nearest_preset(shape)
        longest = min(tokenizer.max_length, int(PRESETS[preset]["max_length"]))
        defaults["max_length"] = longest
        if NSP_HEAD in missing_heads(folder):
            defaults["objective"] = "mlm"
    return FixedSettings(f"The model in {folder} has", settings, defaults, preset)


def _nearest_preset(shape: ModelConfig) -> str:
    """The published size of its architecture whose width, and then depth, is nearest."""
    published = [
        name
        for name, preset in PRESETS.items()
        if name != "textbook" and preset.get("architecture", "bert") == shape.architecture
    ] or ["tiny"]
    return min(
        published,
        key=lambda name: (
            abs(PRESETS[name]["hidden_size"] - shape.hidden_size),
            abs(PRESETS[name]["num_hidden_layers"] - shape.num_hidden_layers),
        ),
    )


def embedding_rows(config: PretrainConfig, tokenizer: Tokenizer, checkpoint: Path | None) -> int:
    """Rows of the embedding matrix: those of what the weights are taken from, which may be padded,
    or more if tokens were added.

    Args:
        config: of the run.
        tokenizer: of its text.
        checkpoint: that the run goes on from, or None.
    """
    begins_from = config.training.init_from
    folder = checkpoint or (find_model(Path(begins_from)) if begins_from else None)
    if folder is None:
        return tokenizer.vocab_size
    rows = read_json(folder / CONFIG_FILE).get("vocab_size")
    return max(rows, tokenizer.vocab_size) if isinstance(rows, int) else tokenizer.vocab_size


@dataclass(frozen=True)
class FirstWeights:
    """What a run begins with.

    Args:
        seed: of what is drawn.
        looks_near: whether heads of the first layer begin with the places around a token.
        word_embedding: float32 [V, H], where word embeddings begin, on the first rank, and room for
            it on the others; None: they are drawn.
        state: weights of the model that is gone on from; empty without one.
        mlm_bias: float32 [V], log shares of the words, where the MLM head begins; None: at 0, or
            where `state` says.
    """

    seed: int
    looks_near: bool
    word_embedding: Tensor | None
    state: dict[str, Tensor]
    mlm_bias: npt.NDArray[np.float32] | None

    @classmethod
    def read(
        cls,
        model: Encoder,
        config: PretrainConfig,
        prepared: Prepared,
        *,
        ranks: Ranks,
        display: Display,
    ) -> FirstWeights:
        """All that is needed to begin, held against the run, before anything is written.

        Args:
            model: the network, whose weights are set by `into`.
            config: of the run.
            prepared: the text.
            ranks: who trains; the first one counts co-occurrences.
            display: shows how far that is.

        Raises:
            DataError: the model to begin from has another tokenizer than the text.
            ModelError: it is damaged, or of another shape.
        """
        state: dict[str, Tensor] = {}
        missing = frozenset({MLM_HEAD})
        begins_from = config.training.init_from
        if begins_from is not None:

            def read(folder: Path) -> tuple[dict[str, Tensor], frozenset[str]]:
                own = Tokenizer.load(folder, default_max_length=prepared.tokenizer.max_length)
                added = prepared.tokenizer.added_since(own)
                if added is None:
                    raise DataError(
                        "The text must be in the tokens of the model that is gone on from, "
                        f"{folder}; it has another tokenizer. Name the text itself, or prepare it "
                        f"with --tokenizer {json.dumps(str(folder))}."
                    )
                refuse_damaged(folder)
                _, rows = read_config(folder)
                state, missing = read_weights(folder, _with_rows(model, rows))
                if added:
                    _begin_at_pieces(state, model, own, added)
                return state, missing

            state, missing = read_newest(Path(begins_from), read)
        bias = None
        if MLM_HEAD in missing and config.training.mlm_bias_init == "frequency":
            # The head then starts as good as word counts alone can be, and has context to learn.
            bias = log_shares(word_counts(prepared.batches.store, prepared.tokenizer))
        looks_near = config.training.attention_init == "near" and begins_from is None
        word_embedding = None
        if config.training.embedding_init == "cooccurrence" and begins_from is None:
            word_embedding = torch.empty(model.word_embedding.shape)
            if ranks.is_first:
                shape = word_embedding.shape
                word_embedding = _cooccurrence_embeddings(shape, config, prepared, display)
        return cls(config.training.seed, looks_near, word_embedding, state, bias)

    def into(self, model: Encoder, ranks: Ranks) -> None:
        """Set all weights of `model`; what the model gone on from lacks is drawn.

        All ranks must do it together.
        """
        model.initialize(self.seed, looks_near=self.looks_near)
        if self.word_embedding is not None:
            ranks.broadcast(self.word_embedding)
            put(model.word_embedding, self.word_embedding)
        put_weights(model, self.state)
        if self.mlm_bias is not None:
            # The rest is of rows that only pad the matrix.
            bias = torch.full((model.vocab_size,), float(self.mlm_bias.min()))
            bias[: len(self.mlm_bias)].copy_(torch.from_numpy(self.mlm_bias))
            put(model.mlm_bias, bias)


def _cooccurrence_embeddings(
    shape: Sequence[int], config: PretrainConfig, prepared: Prepared, display: Display
) -> Tensor:
    with display.stage("Counting co-occurrences") as progress:
        return word_embeddings(
            prepared.batches.store,
            shape,
            deviation=config.model.initializer_range,
            seed=config.training.seed,
            progress=progress,
        )


def _with_rows(model: Encoder, rows: int) -> Encoder:
    """The same network for a vocabulary of `rows` entries, without memory for its weights."""
    with torch.device("meta"):
        return build(model.config, rows, model.heads)


def _begin_at_pieces(
    state: dict[str, Tensor], model: Encoder, own: Tokenizer, added: Sequence[str]
) -> None:
    """Give tokens that were added the mean of the rows of their pieces, in all that has such rows.

    Args:
        state: the weights of the model gone on from; changed.
        model: the network, whose vocabulary may be larger.
        own: the tokenizer of the model gone on from.
        added: the tokens after its own. One of unknown pieces alone begins at the mean of all.
    """
    pieces = [[number for number in ids if number != own.unk_id] for ids in own.pieces_of(added)]
    larger = _with_rows(model, model.vocab_size + 1).state_dict()
    for name, value in model.state_dict().items():
        if name not in state or larger[name].shape == value.shape:
            continue
        rows = state[name].new_zeros(value.shape)
        rows[: len(state[name])] = state[name]
        for number, ids in enumerate(pieces, own.vocab_size):
            rows[number] = state[name][ids or own.regular_ids].mean(dim=0)
        state[name] = rows
