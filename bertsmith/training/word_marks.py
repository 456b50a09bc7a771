"""Checkpoints after so many words of text, as BabyLM asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bertsmith.config import PretrainConfig, parse_counts
from bertsmith.config.registered import PAIR_OBJECTIVES
from bertsmith.training.budget import Spent


@dataclass(frozen=True, kw_only=True)
class WordMarks:
    """Numbers of words after which a checkpoint is kept."""

    marks: tuple[int, ...]
    """Rising."""
    words_a_token: float
    """Of the training text; words are runs between spaces."""
    special_tokens: int
    """[CLS] and [SEP] of an example."""

    @staticmethod
    def of(config: PretrainConfig, report: Mapping[str, Any]) -> WordMarks:
        """From the settings, and what corpus.json says of the text."""
        train = report["splits"]["train"]
        return WordMarks(
            marks=parse_counts("checkpoint_at_words", config.training.checkpoint_at_words),
            words_a_token=train["words"] / max(train["tokens"], 1),
            special_tokens=3 if config.data.objective in PAIR_OBJECTIVES else 2,
        )

    def words(self, spent: Spent) -> float:
        """That were read so far, by their tokens: those that are read again count again."""
        return (spent.tokens - self.special_tokens * spent.pairs) * self.words_a_token

    def passed(self, before: float, after: float) -> list[int]:
        """The marks that a step passed, by the words before and after it."""
        return [mark for mark in self.marks if before < mark <= after]
