"""What the playground asks a model: pieces, words for masks, next sentence, nearness, attention.

Every answer is plain data; what is asked is checked here, since it comes from a page.

Legend: L = layers; N = heads; T = tokens of a text.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from bertsmith.architectures import MLM_HEAD, NSP_HEAD
from bertsmith.corpus.lines import read_lines
from bertsmith.display import Display
from bertsmith.errors import BertsmithError, InputError
from bertsmith.evaluation.of_folder import held_out_text
from bertsmith.inference.model import PretrainedModel, compare, cosine_similarity, load
from bertsmith.inference.similar import similar_places
from bertsmith.nn.layout import PackedInput
from bertsmith.nn.padded import PaddedLayout
from bertsmith.reporting.metrics_file import METRICS_FILE
from bertsmith.saved.locate import find_model

MOST_LETTERS = 4_000
"""Of a text that is asked about."""
_MOST_PLACES = 400
_MOST_COMPARED = 128  # tokens: a page shows their square
_MOST_LINES = 20_000
_GUESSES = 8

_Ask = TypeVar("_Ask", bound=msgspec.Struct)


class TextAsk(msgspec.Struct, forbid_unknown_fields=True):
    """A text."""

    text: str


class FillAsk(TextAsk, forbid_unknown_fields=True):
    """A text and the numbers of its tokens that are masked, as `pieces` counts them."""

    masked: list[int]


class PairAsk(TextAsk, forbid_unknown_fields=True):
    """Two texts."""

    other: str


class WordAsk(msgspec.Struct, forbid_unknown_fields=True):
    """A word, whose places are looked for."""

    word: str


class AttentionAsk(TextAsk, forbid_unknown_fields=True):
    """A text, a layer and a head, from 0."""

    layer: int
    head: int


@dataclass
class _Loaded:
    model: PretrainedModel
    folder: Path
    changed: float


class Answers:
    """A run's newest model, and what it answers.

    Args:
        run: a run, which may still be training, or a folder of a model.
        file: a text whose places of words are shown; None: those of the run's held-out text.
        device: auto, cpu, cuda or mps.

    Raises:
        BertsmithError: there is no model, or it cannot be read.
    """

    def __init__(self, run: Path, file: Path | None, device: str) -> None:
        self.run, self._file, self._device = run, file, device
        self._lock = threading.Lock()
        self._loaded: _Loaded | None = None
        self._lines: list[str] | None = None
        self.refresh()

    def refresh(self) -> bool:
        """Take the newest checkpoint; whether it is another one.

        A run may remove one while it is read: then it is the turn of the next look.
        """
        try:
            folder = find_model(self.run)
            changed = folder.stat().st_mtime
            now = self._loaded
            if now is not None and (now.folder, now.changed) == (folder, changed):
                return False
            found = load(self.run, device=self._device)
        except (BertsmithError, OSError):
            if self._loaded is None:
                raise
            return False
        with self._lock:
            self._loaded = _Loaded(found, folder, changed)
        return True

    @property
    def model(self) -> PretrainedModel:
        """The newest one that was read."""
        assert self._loaded is not None
        return self._loaded.model

    def about(self) -> dict[str, Any]:
        """What the page must know before it asks."""
        model = self.model
        config, heads = model.bert.config, model.heads
        return {
            "name": self.run.resolve().name,
            "checkpoint": self._loaded.folder.name if self._loaded else "",
            "architecture": config.architecture,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "max_length": model.tokenizer.max_length,
            "fills": MLM_HEAD in heads,
            "judges_next": NSP_HEAD in heads,
            "mask": model.tokenizer.mask,
            "is_run": (self.run / METRICS_FILE).is_file(),
        }

    def pieces(self, ask: TextAsk) -> dict[str, Any]:
        """How a text is cut: of each token its `text`, whether it `continues` a word, is `unknown`
        to the vocabulary, or is the `mask`.
        """
        return {"tokens": self._tokens(ask.text)}

    @torch.inference_mode()
    def fill(self, ask: FillAsk) -> dict[str, Any]:
        """The likeliest words for masked tokens, by their numbers."""
        ids = self._ids(ask.text)
        tokenizer = self.model.tokenizer
        masked = sorted({*ask.masked, *(i for i, n in enumerate(ids) if n == tokenizer.mask_id)})
        if masked and not (masked[0] >= 0 and masked[-1] < len(ids)):
            raise InputError(f"Masked tokens must be among the {len(ids)} of the text.")
        shown = [tokenizer.mask_id if i in set(masked) else n for i, n in enumerate(ids)]
        guesses = {}
        if masked:
            logits = self.model.bert.mlm_logits(self._hidden(shown)[[i + 1 for i in masked]])
            shares = logits.float().softmax(1)
            words = shares[:, tokenizer.regular_ids.tolist()]
            best = words.topk(min(_GUESSES, len(tokenizer.regular_ids)))
            chosen = tokenizer.regular_ids[best.indices.cpu().numpy()]
            for number, values, numbers in zip(
                masked, best.values.tolist(), chosen.tolist(), strict=True
            ):
                row = shares[masked.index(number)]
                guesses[str(number)] = {
                    "guesses": [
                        {"text": tokenizer.text_of(n)[0], "probability": value}
                        for n, value in zip(numbers, values, strict=True)
                    ],
                    "true": float(row[ids[number]]) if ids[number] != tokenizer.mask_id else None,
                }
        return {"tokens": self._tokens(ask.text), "masks": guesses}

    def follows(self, ask: PairAsk) -> dict[str, Any]:
        """The probability that the second text follows the first."""
        self._refuse_long(ask.text, ask.other)
        return {"probability": self.model.next_sentence(ask.text, ask.other)}

    def nearness(self, ask: PairAsk) -> dict[str, Any]:
        """Cosines of every word of a text with every word of another, and of shared words."""
        self._refuse_long(ask.text, ask.other)
        left, right = (self.model.encode_one(text) for text in (ask.text, ask.other))
        sides = []
        for found in (left, right):
            words = [i for i, special in enumerate(found.is_special) if not special]
            words = words[:_MOST_COMPARED]
            vectors = found.tokens[words]
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            sides.append(([found.words[i] for i in words], vectors / np.maximum(lengths, 1e-12)))
        (first, one), (second, other) = sides
        return {
            "words": [first, second],
            "cosines": np.round(one @ other.T, 4).tolist(),
            "shared": [{"word": word, "cosine": cosine} for word, cosine in compare(left, right)],
            "text": cosine_similarity(left.mean, right.mean),
        }

    def places(self, ask: WordAsk) -> dict[str, Any]:
        """Where a word stands, as points of a plane in which like places lie near each other."""
        self._refuse_long(ask.word)
        found = similar_places(self.model, ask.word, self._text())
        places = [found.reference, *(place for place, _ in found.others)]
        places = sorted(places, key=lambda place: place.line)[:_MOST_PLACES]
        vectors = np.stack([place.vector for place in places])
        centred = vectors - vectors.mean(axis=0)
        # The two directions in which the vectors differ most (principal components).
        _, _, directions = np.linalg.svd(centred, full_matrices=False)
        flat = centred @ directions[:2].T
        flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
        rows = zip(places, flat.tolist(), strict=True)
        return {
            "count": 1 + len(found.others),
            "places": [
                {"line": p.line, "left": p.left, "word": p.word, "right": p.right, "x": x, "y": y}
                for p, (x, y) in rows
            ],
        }

    @torch.inference_mode()
    def attention(self, ask: AttentionAsk) -> dict[str, Any]:
        """The attention probabilities of a head: from each token to each."""
        config = self.model.bert.config
        if not (
            0 <= ask.layer < config.num_hidden_layers and 0 <= ask.head < config.num_attention_heads
        ):
            raise InputError("There must be such a layer and head.")
        tokenizer = self.model.tokenizer
        ids = [tokenizer.cls_id, *self._ids(ask.text)[:_MOST_COMPARED], tokenizer.sep_id]
        is_token = torch.ones(1, len(ids), dtype=torch.bool, device=self._where)
        layout = _Recording(is_token, wanted=(ask.layer, ask.head))
        self._run(ids, layout)
        return {
            "tokens": [tokenizer.text_of(n)[0] for n in ids],
            "probabilities": np.round(layout.kept[ask.layer].float().cpu().numpy(), 4).tolist(),
        }

    def _text(self) -> Sequence[str]:
        """The lines in which places of words are looked for."""
        if self._lines is None:
            lines = self._held_out() if self._file is None else read_lines(self._file)
            self._lines = list(islice(lines, _MOST_LINES))
        return self._lines

    def _held_out(self) -> Iterator[str]:
        """The sentences that a run held out."""
        assert self._loaded is not None
        tokenizer = self.model.tokenizer
        silent = Display(is_silent=True)
        found = held_out_text(self.run, self._loaded.folder, tokenizer, silent)
        if found is None:
            raise InputError(
                "A text is needed to look for words: begin the playground with --file FILE."
            )
        store = found[0]
        for number in range(store.num_sentences):
            start, end = store.bounds(np.array([number]))
            yield tokenizer.decode(store.tokens(start, end - start).tolist())

    def _ids(self, text: str) -> list[int]:
        """Of a text, as many tokens as the model reads."""
        return self._cut(text)[0]

    def _cut(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The same, and which letters each of them stands for."""
        self._refuse_long(text)
        ids, spans = self.model.tokenizer.encode_with_spans(text)
        room = self.model.tokenizer.max_length - 2
        return ids[:room], spans[:room]

    def _refuse_long(self, *texts: str) -> None:
        for text in texts:
            if len(text) > MOST_LETTERS:
                raise InputError(f"A text must have at most {MOST_LETTERS:,} letters.")

    def _tokens(self, text: str) -> list[dict[str, Any]]:
        tokenizer = self.model.tokenizer
        found = []
        for place, (number, (start, end)) in enumerate(zip(*self._cut(text), strict=True)):
            shown, continues = tokenizer.text_of(number)
            is_unknown = number == tokenizer.unk_id
            found.append(
                {
                    "text": text[start:end].strip() if is_unknown else shown,
                    "continues": continues and place > 0,
                    "unknown": is_unknown,
                    "mask": number == tokenizer.mask_id,
                }
            )
        return found

    @property
    def _where(self) -> torch.device:
        return next(self.model.bert.parameters()).device

    def _hidden(self, ids: Sequence[int]) -> Tensor:
        """Of [CLS], the text and [SEP]: [T + 2, H]."""
        tokenizer = self.model.tokenizer
        whole = [tokenizer.cls_id, *ids, tokenizer.sep_id]
        layout = PaddedLayout(torch.ones(1, len(whole), dtype=torch.bool, device=self._where))
        return self._run(whole, layout)

    def _run(self, ids: Sequence[int], layout: PaddedLayout) -> Tensor:
        places = torch.arange(len(ids), device=self._where)
        numbers = torch.tensor(ids, device=self._where)
        hidden: Tensor = self.model.bert(
            PackedInput(numbers, torch.zeros_like(numbers), places, layout)
        )
        return hidden


@dataclass(frozen=True)
class _Recording(PaddedLayout):
    """Keeps the attention probabilities of one head, [T, T], of one layer."""

    wanted: tuple[int, int] = (0, 0)
    """The layer and the head."""
    kept: list[Tensor] = field(default_factory=list)
    """Of each layer that was asked for so far; empty but for the one that is wanted."""

    def probabilities(self, query: Tensor, key: Tensor, num_heads: int) -> Tensor:
        found = super().probabilities(query, key, num_heads)
        layer, head = self.wanted
        self.kept.append(found[0, head].clone() if len(self.kept) == layer else found.new_empty(0))
        return found


def answering(
    method: Callable[[_Ask], dict[str, Any]], kind: type[_Ask]
) -> Callable[[bytes], dict[str, Any]]:
    """A method as a function of what a page sends.

    Raises:
        InputError: it is no JSON of this kind, or the model cannot answer it.
    """

    def answer(body: bytes) -> dict[str, Any]:
        try:
            ask = msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise InputError(f"A question must be JSON: {error}.") from error
        try:
            return method(ask)
        except BertsmithError:
            raise
        except ValueError as error:  # half of a surrogate pair, and the like
            raise InputError(f"The text is not taken: {error}.") from error

    return answer
