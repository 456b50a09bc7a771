"""A tagger in use: the spans of a text, from a model that was fine-tuned on tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from bertsmith.architectures import TOKEN_CLASSIFIER, Encoder
from bertsmith.errors import ModelError
from bertsmith.finetuning.tagged import OUTSIDE, Scheme, Window, spans_of, windows_of
from bertsmith.hardware.device import choose_device, settled_precision
from bertsmith.objectives.tokens import TokenClassification
from bertsmith.rows import over_tokens
from bertsmith.saved.hugging_face import class_of, load_classifier
from bertsmith.saved.locate import read_newest
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.texts import refuse_no_text


class TaggedSpan(NamedTuple):
    """A part of a text, and what it is."""

    kind: str
    text: str
    start: int
    """In characters."""
    end: int
    score: float
    """The mean probability of the tags of its words."""


@dataclass(frozen=True, kw_only=True)
class Tagger:
    """A token classifier and its tokenizer, ready to use.

    Args:
        model: in evaluation mode, on `device`.
        tokenizer: its own.
        scheme: what its classes mean.
        device: where.
        precision: of the matrix products.
    """

    model: Encoder
    tokenizer: Tokenizer
    scheme: Scheme
    device: torch.device
    precision: str

    @staticmethod
    def load(path: str | Path, *, device: str = "auto", precision: str = "float32") -> Tagger:
        """The tagger in a folder.

        Raises:
            ModelError, TokenizerError: it is none, or damaged.
            DeviceError: `device` is not on this machine.
        """
        where = choose_device(device)
        model, tokenizer, names = read_newest(Path(path), _read)
        return Tagger(
            model=model.to(where),
            tokenizer=tokenizer,
            scheme=Scheme.of_model(names),
            device=where,
            precision=settled_precision(where, precision),
        )

    def tag(self, texts: Sequence[str]) -> list[list[TaggedSpan]]:
        """The spans of each text, in their order; of tags that are no spans, every word.

        Raises:
            InputError: a text is not Unicode.
        """
        if not texts:
            return []
        windows: list[Window] = []
        places: list[list[tuple[int, int]]] = []
        for number, text in enumerate(texts):
            refuse_no_text(text)
            pieces, bounds = self._words(text)
            windows += windows_of(pieces, None, number, self.tokenizer, self.scheme)
            places.append(bounds)
        tags = [[OUTSIDE] * len(bounds) for bounds in places]
        scores = [[0.0] * len(bounds) for bounds in places]
        objective = TokenClassification()
        logits = over_tokens(
            lambda batch: objective.outputs(self.model, batch).softmax(1),
            [window.row for window in windows],
            self.model.num_labels,
            self.device,
            precision=self.precision,
        )
        for window, shares in zip(windows, logits, strict=True):
            for place, word in enumerate(window.words):
                if word >= 0:
                    tags[window.sentence][word] = self.scheme.names[int(shares[place].argmax())]
                    scores[window.sentence][word] = float(shares[place].max())
        found = zip(texts, places, tags, scores, strict=True)
        return [self._spans(text, where, own, sure) for text, where, own, sure in found]

    def _words(self, text: str) -> tuple[list[list[int]], list[tuple[int, int]]]:
        """The pieces of each word of a text, and the characters that it stands for."""
        continues = self.tokenizer.continues_word()
        pieces: list[list[int]] = []
        bounds: list[tuple[int, int]] = []
        for number, (start, end) in zip(*self.tokenizer.encode_with_spans(text), strict=True):
            start += len(text[start:end]) - len(text[start:end].lstrip())
            if pieces and continues[number] and start <= bounds[-1][1]:
                pieces[-1].append(number)
                bounds[-1] = bounds[-1][0], max(end, bounds[-1][1])
            else:
                pieces.append([number])
                bounds.append((start, end))
        return pieces, bounds

    def _spans(
        self,
        text: str,
        places: Sequence[tuple[int, int]],
        tags: Sequence[str],
        scores: Sequence[float],
    ) -> list[TaggedSpan]:
        if self.scheme.is_spans:
            found = sorted(spans_of(tags))
        else:
            found = [(n, n + 1, tag) for n, tag in enumerate(tags)]  # type: ignore[misc]
        spans = []
        for first, end, kind in found:
            start, stop = places[first][0], places[end - 1][1]
            score = sum(scores[first:end]) / (end - first)
            spans.append(TaggedSpan(kind, text[start:stop], start, stop, score))
        return spans


def _read(folder: Path) -> tuple[Encoder, Tokenizer, list[str]]:
    if not (found := class_of(folder)).endswith("ForTokenClassification"):
        raise ModelError(f"{folder} must be fine-tuned with --task tokens; it is a {found}.")
    return load_classifier(folder, TOKEN_CLASSIFIER)
