"""A trained model in use: vectors of texts, words for a mask, the odds of a next sentence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt
import torch

from bertsmith.architectures import MLM_HEAD, NSP_HEAD, POOLER, Encoder, build
from bertsmith.errors import InputError, ModelError
from bertsmith.hardware.device import autocast, choose_device
from bertsmith.nn.layout import PackedInput, TokenRow
from bertsmith.saved.hugging_face import load_model
from bertsmith.saved.locate import read_newest
from bertsmith.tokenizer import TokenizedText, Tokenizer
from bertsmith.tokenizer.texts import (
    cuts,
    kept_places,
    refuse_no_text,
    say_what_is_unknown,
    say_what_was_cut,
    shown,
)

Float32 = npt.NDArray[np.float32]

_TOKENS_AT_ONCE = 2**14
_TEXTS_AT_ONCE = 4096  # sorted by length together

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
    """The text of the two that has the mask, with this word in the place of it."""


class PretrainedModel:
    """A BERT and its tokenizer, ready to use.

    Args:
        model: in evaluation mode, on `device`.
        tokenizer: the model's.
        missing: heads that the model's folder had no weights for.
        device: where the model is.
        precision: of the encoder's products; its results are float32 in any case.
    """

    def __init__(
        self,
        model: Encoder,
        tokenizer: Tokenizer,
        missing: frozenset[str],
        device: torch.device,
        precision: str = "float32",
    ) -> None:
        self.bert = model
        self.tokenizer = tokenizer
        self._missing = missing
        self._device, self._precision = device, precision
        self._special = frozenset(tokenizer.special_ids.tolist())

    @property
    def heads(self) -> frozenset[str]:
        """Those that the model's folder had weights for."""
        return self.bert.heads - self._missing

    def with_trained_heads(self) -> Encoder:
        """The network without heads that its folder had no weights for; it shares the weights."""
        bert = self.bert
        with torch.device("meta"):
            found = build(bert.config, bert.vocab_size, self.heads, num_labels=bert.num_labels)
        own, names = bert.state_dict(), found.state_dict().keys()
        found.load_state_dict({name: own[name] for name in names}, assign=True)
        return found.eval()

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

    def encode_one(self, text: str, text_pair: str | None = None) -> Encoding:
        """The vectors of one text or pair."""
        (found,) = self._encode([(text, text_pair)])
        return found

    def encode_many(self, texts: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """The vectors of many texts or pairs, in the order given."""
        return list(self.encode_each(texts))

    def encode_each(
        self, texts: Iterable[str | tuple[str, str]], *, source: str = ""
    ) -> Iterator[Encoding]:
        """The same, a few thousand texts at a time.

        Args:
            texts: texts or pairs.
            source: what they are of, as a warning of those that are cut says it.
        """
        pairs = ((entry, None) if isinstance(entry, str) else entry for entry in texts)
        return self._encode(pairs, source)

    @torch.inference_mode()
    def fill(
        self, text: str, text_pair: str | None = None, *, top_k: int = 5
    ) -> list[list[Candidate]]:
        """For each mask in the text, then in `text_pair`, the `top_k` likeliest words, best first.

        The mask is [MASK], unless the tokenizer has another name for it.
        Probabilities are over the whole vocabulary; special tokens are never proposed.
        A text that is longer than the model takes is cut around its masks, and where they are too
        far apart each is filled by what stands around it.

        Raises:
            InputError: there is no mask; the model has no MLM head; `top_k` is under 1.
        """
        self._require(MLM_HEAD, "fill a mask")
        if top_k < 1:
            raise InputError(f"`top_k` must be at least 1; got {top_k}.")
        row = self._tokenize(text, text_pair)
        mask, longest = self.tokenizer.mask, self.tokenizer.max_length
        places = [i for i, token in enumerate(row.tokens) if token == mask]
        if not places:
            raise InputError(
                f"The text must hold {mask} where a word is wanted; got {shown(text)}."
            )
        say_what_is_unknown(self._is_unknown(row), 1)
        say_what_was_cut([len(row.ids)], longest, kept=f"what stands around {mask}")
        best = self._likeliest(row, places, top_k)
        num_first = sum(row.segments[place] == 0 for place in places)
        return [
            [
                Candidate(
                    token=self.tokenizer.token(index),
                    probability=value,
                    text=_fill_in(
                        (text, text_pair or "")[row.segments[place]],
                        mask,
                        number - num_first * row.segments[place],
                        *self.tokenizer.text_of(index),
                    ),
                )
                for value, index in best[place]
            ]
            for number, place in enumerate(places)
        ]

    def _likeliest(
        self, row: TokenizedText, places: Sequence[int], top_k: int
    ) -> dict[int, list[tuple[float, int]]]:
        """The likeliest entries at each of some places of an uncut text: probabilities and ids."""
        longest, wanted = self.tokenizer.max_length, set(places)
        found: dict[int, list[tuple[float, int]]] = {}
        for kept in cuts(row.segments, places, longest):
            within = [i for i, place in enumerate(kept) if place in wanted]
            scores = _shares(self.bert.mlm_logits(self._forward([_part(row, kept)])[within]))
            scores[:, self.tokenizer.special_ids] = -1.0
            scores[:, self.tokenizer.vocab_size :] = -1.0  # rows that only pad the matrix
            best = scores.topk(min(top_k, len(self.tokenizer.regular_ids)))
            for i, *row_of_best in zip(
                within, best.values.tolist(), best.indices.tolist(), strict=True
            ):
                found[kept[i]] = list(zip(*row_of_best, strict=True))
                wanted.remove(kept[i])
        if wanted:
            raise InputError(
                f"The model reads {longest} tokens, which have no room for mask "
                f"{places.index(min(wanted)) + 1} beside the other text; give one text."
            )
        return found

    @torch.inference_mode()
    def next_sentence(self, sentence_a: str, sentence_b: str) -> float:
        """The probability that `sentence_b` follows `sentence_a`.

        Raises:
            InputError: a sentence is empty; the model has no NSP head.
        """
        self._require(NSP_HEAD, "judge a next sentence")
        self._require(POOLER, "judge a next sentence")
        row = self._tokenize(sentence_a, sentence_b)
        say_what_is_unknown(self._is_unknown(row), 1)
        if min(row.segments.count(0) - 2, row.segments.count(1) - 1) < 1:
            raise InputError("Both sentences must hold a word; one is empty.")
        say_what_was_cut([len(row.ids)], self.tokenizer.max_length)
        hidden = self._forward([self._cut(row)])
        scores = _shares(self.bert.nsp_logits(self.bert.pool(hidden[:1])))
        return float(scores[0, 0])

    def _require(self, part: str, purpose: str) -> None:
        if part not in self.heads:
            raise InputError(f"The model needs its {part} to {purpose}; its folder has none.")

    def _tokenize(self, text: str, text_pair: str | None) -> TokenizedText:
        """The text, uncut."""
        if text_pair is not None and self.bert.config.num_segments == 1:
            raise InputError("The model has one segment; it cannot take a pair of texts.")
        for part in (text,) if text_pair is None else (text, text_pair):
            refuse_no_text(part)
        return self.tokenizer.encode(text, text_pair)

    def _cut(self, row: TokenizedText) -> TokenizedText:
        """Its beginning, as long as the model was trained on."""
        return _part(row, kept_places(row.segments, self.tokenizer.max_length))

    def _is_unknown(self, row: TokenizedText) -> bool:
        """Whether the model sees of a text no more than how many words it has."""
        return self.tokenizer.unk_id in row.ids and self._special.issuperset(row.ids)

    def _encode(
        self, pairs: Iterable[tuple[str, str | None]], source: str = ""
    ) -> Iterator[Encoding]:
        waiting, lengths, num_unknown = iter(pairs), [], 0
        ends = {self.tokenizer.cls, self.tokenizer.sep}
        while some := list(islice(waiting, _TEXTS_AT_ONCE)):
            rows = []
            for text, text_pair in some:
                row = self._tokenize(text, text_pair)
                lengths.append(len(row.ids))
                rows.append(self._cut(row))
                num_unknown += self._is_unknown(row)
            uncut = lengths[-len(rows) :]
            for length, row, hidden in zip(uncut, rows, self.hidden_states(rows), strict=True):
                yield Encoding(
                    tokens=hidden,
                    token_texts=row.tokens,
                    words=row.words,
                    segments=row.segments,
                    is_special=[token in ends for token in row.tokens],
                    num_cut_tokens=length - len(row.ids),
                )
        say_what_is_unknown(num_unknown, len(lengths), source=source)
        say_what_was_cut(lengths, self.tokenizer.max_length, source=source)

    @torch.inference_mode()
    def hidden_states(self, rows: Sequence[TokenRow]) -> list[Float32]:
        """The vector of each token, float32 [n, H] of each row; in the order given."""
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
        found: dict[int, Float32] = {}
        while len(found) < len(order):
            longest = len(rows[order[len(found)]].ids)
            group = order[len(found) : len(found) + max(1, _TOKENS_AT_ONCE // longest)]
            hidden = self._forward([rows[i] for i in group]).cpu().numpy()
            if not np.abs(hidden).max() < _LARGEST_NUMBER:  # nor is NaN
                raise ModelError(_TOO_LARGE)
            end = 0
            for i in group:
                begin, end = end, end + len(rows[i].ids)
                found[i] = hidden[begin:end].copy()
        return [found[i] for i in range(len(rows))]

    def _forward(self, rows: Sequence[TokenRow]) -> torch.Tensor:
        """[T, H] of texts laid end to end; rows after them are filler."""
        with autocast(self._device, self._precision):
            hidden = self.bert(PackedInput.of(rows, self._device).with_filler())
        return hidden.to(next(self.bert.parameters()).dtype)


def load(path: str | Path, *, device: str = "auto", precision: str = "float32") -> PretrainedModel:
    """The model of a run, one of its checkpoints, a Hugging Face folder, or hf:owner/name.

    Args:
        path: where it lies.
        device: auto, cpu, cuda, mps.
        precision: float32, bfloat16, or auto: bfloat16 where the device has it natively.

    Raises:
        ModelError, TokenizerError: the folder is not one, or is damaged.
        DeviceError: `device` is not on this machine.
    """
    where = choose_device(device)
    model, tokenizer, missing = read_newest(Path(path), load_model)
    return PretrainedModel(model.to(where), tokenizer, missing, where, precision)


def _part(row: TokenizedText, kept: Sequence[int]) -> TokenizedText:
    """The tokens at some places."""
    if len(kept) == len(row.ids):
        return row
    return TokenizedText(
        ids=[row.ids[i] for i in kept],
        segments=[row.segments[i] for i in kept],
        tokens=[row.tokens[i] for i in kept],
        words=[row.words[i] for i in kept],
    )


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
    if number + 1 >= len(before):  # the tokenizer has another spelling of it
        return text
    left = mask.join(before[: number + 1])
    right = mask.join(before[number + 1 :])
    return f"{left.rstrip() if continues else left}{word}{right}"
