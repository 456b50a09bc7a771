"""A trained model in use: vectors of texts, words for a mask, the odds of a next sentence."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import torch

from bertsmith.errors import InputError, ModelError
from bertsmith.inference.texts import Row, kept_places, pack
from bertsmith.model.bert import Bert
from bertsmith.model.device import choose_device
from bertsmith.model.hugging_face import load_model
from bertsmith.model.locate import find_model
from bertsmith.tokenizer import TokenizedText, Tokenizer

Float32 = npt.NDArray[np.float32]

_TOKENS_AT_ONCE = 2**14

_LARGEST_NUMBER = 1e15  # of a vector: means and cosines of these are finite in float32

_TOO_LARGE = (
    "The model's results must be finite numbers; for this text they are not: its weights are far "
    "too large, as after a training that diverged. Take another checkpoint."
)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """A text, or a pair of them, as the model sees it; n tokens with [CLS] and [SEP] counted."""

    tokens: Float32 = field(repr=False)
    """[n, H]; the vector of each token in its context."""
    token_texts: list[str]
    """n vocabulary entries, from [CLS] to the last [SEP]."""
    words: list[str] = field(repr=False)
    """The same, but with what stood in the text in the place of [UNK]."""
    segments: list[int]
    """n times 0 (first text) or 1 (second)."""
    is_special: list[bool] = field(repr=False)
    """n times whether it is [CLS] or [SEP] and no token of the text."""
    num_cut_tokens: int = 0
    """Tokens that were cut off because the text is longer than the model was trained on."""

    @property
    def cls(self) -> Float32:
        """[H]; the vector of [CLS], which stands for the whole text."""
        vector: Float32 = self.tokens[0]
        return vector

    @property
    def mean(self) -> Float32:
        """[H]; the mean over the tokens of the text, without [CLS] and [SEP]."""
        words = [i for i, special in enumerate(self.is_special) if not special]
        vector: Float32 = self.tokens[words or slice(None)].mean(axis=0)
        return vector

    def pooled(self, pooling: str) -> Float32:
        """`tokens` [n, H], `cls` [H] or `mean` [H]."""
        vectors: Float32 = getattr(self, pooling)
        return vectors


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A word for a mask."""

    token: str
    probability: float
    text: str
    """The text given, with this word in the place of this mask."""


class PretrainedModel:
    """A BERT and its tokenizer, ready to use.

    Args:
        model: in evaluation mode, on `device`.
        tokenizer: the model's.
        missing: heads that the model's folder had no weights for.
        device: where the model is.
    """

    def __init__(
        self, model: Bert, tokenizer: Tokenizer, missing: frozenset[str], device: torch.device
    ) -> None:
        self.bert = model
        self.tokenizer = tokenizer
        self._missing = missing
        self._device = device

    @overload
    def encode(  # type: ignore[overload-overlap]
        self, text: str, text_pair: str | None = None
    ) -> Encoding: ...

    @overload
    def encode(self, text: Sequence[str | tuple[str, str]]) -> list[Encoding]: ...

    def encode(
        self, text: str | Sequence[str | tuple[str, str]], text_pair: str | None = None
    ) -> Encoding | list[Encoding]:
        """The vectors of a text, of a pair of texts, or of many of either.

        Many texts are encoded in the order of their lengths and returned in the order given.

        Args:
            text: one text; or a list whose entries are texts or pairs of texts.
            text_pair: the second text, with a single `text` only.

        Raises:
            InputError: `text_pair` beside a list.
        """
        if isinstance(text, str):
            return self.encode_one(text, text_pair)
        if text_pair is not None:
            raise InputError("With a list of texts, a pair is an entry (text, text_pair) of it.")
        return self.encode_many(text)

    @torch.inference_mode()
    def encode_one(self, text: str, text_pair: str | None = None) -> Encoding:
        """The vectors of one text or pair."""
        return self._encode([(text, text_pair)])[0]

    @torch.inference_mode()
    def encode_many(self, texts: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """The vectors of many texts or pairs, in the order given."""
        return self._encode([(entry, None) if isinstance(entry, str) else entry for entry in texts])

    @torch.inference_mode()
    def fill(
        self, text: str, text_pair: str | None = None, *, top_k: int = 5
    ) -> list[list[Candidate]]:
        """For each mask in the text, the `top_k` likeliest words, likeliest first.

        The mask is [MASK], unless the tokenizer has another name for it.
        Probabilities are over the whole vocabulary; special tokens are never proposed.

        Raises:
            InputError: there is no mask; the model has no MLM head; `top_k` is under 1.
        """
        self._require("mlm_head", "fill a mask")
        if top_k < 1:
            raise InputError(f"`top_k` must be at least 1; got {top_k}.")
        row, _ = self._tokenize(text, text_pair)
        mask = self.tokenizer.mask
        places = [i for i, token in enumerate(row.tokens) if token == mask]
        if not places:
            raise InputError(f"The text must hold {mask} where a word is wanted; got {text!r}.")
        hidden = self._forward([row])
        scores = _shares(self.bert.mlm_logits(hidden[places]))
        scores[:, self.tokenizer.special_ids] = -1.0
        scores[:, self.tokenizer.vocab_size :] = -1.0  # rows that only pad the matrix
        best = scores.topk(min(top_k, len(self.tokenizer.regular_ids)))
        return [
            [
                Candidate(
                    token=self.tokenizer.token(index),
                    probability=value,
                    text=_fill_in(text, mask, number, *self.tokenizer.text_of(index)),
                )
                for value, index in zip(values, indices, strict=True)
            ]
            for number, (values, indices) in enumerate(
                zip(best.values.tolist(), best.indices.tolist(), strict=True)
            )
        ]

    @torch.inference_mode()
    def next_sentence(self, sentence_a: str, sentence_b: str) -> float:
        """The probability that `sentence_b` follows `sentence_a`. Raises: `InputError`, no head."""
        self._require("nsp_head", "judge a next sentence")
        self._require("pooler", "judge a next sentence")
        row, _ = self._tokenize(sentence_a, sentence_b)
        hidden = self._forward([row])
        first = torch.zeros(2, dtype=torch.int32, device=self._device)
        scores = _shares(self.bert.nsp_logits(self.bert.pool(hidden, first)))
        return float(scores[0, 0])

    def _require(self, part: str, purpose: str) -> None:
        if part in self._missing:
            raise InputError(f"The model needs its {part} to {purpose}; its folder has none.")

    def _tokenize(self, text: str, text_pair: str | None) -> tuple[TokenizedText, int]:
        """The text, cut to the trained length, and how many tokens were cut off."""
        if text_pair is not None and self.bert.config.type_vocab_size < 2:
            raise InputError("The model has one segment; it cannot take a pair of texts.")
        row = self.tokenizer.encode(text, text_pair)
        excess = len(row.ids) - self.tokenizer.max_length
        if excess <= 0:
            return row, 0
        warnings.warn(
            f"A text of {len(row.ids)} tokens was cut to the {self.tokenizer.max_length} that the "
            "model was trained on.",
            stacklevel=5,
        )
        kept = kept_places(row.segments, self.tokenizer.max_length)
        cut = TokenizedText(
            ids=[row.ids[i] for i in kept],
            segments=[row.segments[i] for i in kept],
            tokens=[row.tokens[i] for i in kept],
            words=[row.words[i] for i in kept],
        )
        return cut, excess

    def _encode(self, pairs: Sequence[tuple[str, str | None]]) -> list[Encoding]:
        rows = [self._tokenize(text, text_pair) for text, text_pair in pairs]
        ends = {self.tokenizer.cls, self.tokenizer.sep}
        return [
            Encoding(
                tokens=hidden,
                token_texts=row.tokens,
                words=row.words,
                segments=row.segments,
                is_special=[token in ends for token in row.tokens],
                num_cut_tokens=num_cut,
            )
            for (row, num_cut), hidden in zip(
                rows, self.hidden_states([row for row, _ in rows]), strict=True
            )
        ]

    @torch.inference_mode()
    def hidden_states(self, rows: Sequence[Row]) -> list[Float32]:
        """The vector of each token, float32 [n, H] of each row; in the order given."""
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        found: dict[int, Float32] = {}
        while len(found) < len(order):
            longest = len(rows[order[len(found)]].ids)
            group = order[len(found) : len(found) + max(1, _TOKENS_AT_ONCE // longest)]
            hidden = self._forward([rows[i] for i in group]).float().cpu().numpy()
            if not np.abs(hidden).max() < _LARGEST_NUMBER:  # nor is NaN
                raise ModelError(_TOO_LARGE)
            end = 0
            for i in group:
                begin, end = end, end + len(rows[i].ids)
                found[i] = hidden[begin:end].copy()
        return [found[i] for i in range(len(rows))]

    def _forward(self, rows: Sequence[Row]) -> torch.Tensor:
        """[T, H] of texts laid end to end."""
        return self.bert(*pack(rows, self._device))


def load(path: str | Path, *, device: str = "auto") -> PretrainedModel:
    """The model that `path` means: a run, one of its checkpoints, or a Hugging Face BERT folder.

    Raises:
        ModelError, TokenizerError: the folder is not one, or is damaged.
        DeviceError: `device` is not on this machine.
    """
    where = choose_device(device)
    model, tokenizer, missing = load_model(find_model(Path(path)))
    return PretrainedModel(model.to(where), tokenizer, missing, where)


def _shares(logits: torch.Tensor) -> torch.Tensor:
    """Probabilities by softmax, float32. Raises: `ModelError` if they are no numbers."""
    shares = logits.float().softmax(-1)
    if not bool(torch.isfinite(shares).all()):
        raise ModelError(_TOO_LARGE)
    return shares


def cosine_similarity(left: Float32, right: Float32) -> float:
    """The cosine of the angle between two vectors [H]: 1 = the same direction."""
    norms = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / norms if norms else 0.0


def compare(left: Encoding, right: Encoding) -> list[tuple[str, float]]:
    """Each word that stands in both texts, with the cosine of its vectors in the two contexts.

    Of a word that a text has several times, the first is taken.
    """
    first, second = _first_places(left), _first_places(right)
    return [
        (word, cosine_similarity(left.tokens[place], right.tokens[second[word]]))
        for word, place in first.items()
        if word in second
    ]


def _first_places(encoding: Encoding) -> dict[str, int]:
    """Where each word of a text stands first."""
    places: dict[str, int] = {}
    for place, (word, special) in enumerate(zip(encoding.words, encoding.is_special, strict=True)):
        if not special:
            places.setdefault(word, place)
    return places


def _fill_in(text: str, mask: str, number: int, word: str, continues: bool) -> str:
    """`text` with its mask of this number (from 0) replaced; masks beyond it stay."""
    before = text.split(mask)
    if number + 1 >= len(before):  # the mask is in the second text
        return text
    left = mask.join(before[: number + 1])
    right = mask.join(before[number + 1 :])
    return f"{left.rstrip() if continues else left}{word}{right}"
