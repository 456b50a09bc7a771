"""Pseudo-log-likelihoods of sentences: sums of log-probabilities, each token masked in turn.

By Salazar et al. 2020, or as Kauf and Ivanova (2023, "A Better Way to Do Masked Language Model
Scoring") mend it: the tokens of the same word to the right are masked as well. Else a word of
several pieces is nearly given away by its other pieces, and rare words score too high.

Legend: S = sentences; N = those of one length L, [CLS] and [SEP] counted; C = copies of them, one
for each token that is scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from bertsmith.architectures import Encoder
from bertsmith.batch import Batch
from bertsmith.errors import InputError, TokenizerError
from bertsmith.hardware.device import usual_micro_batch
from bertsmith.objectives.mlm import MLM, MaskedLM
from bertsmith.random_bits import Int64
from bertsmith.tokenizer import Tokenizer

PLLMetric = Literal["within_word_l2r", "original"]

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]


class SentenceScores(NamedTuple):
    """Of S sentences."""

    totals: Float64
    """[S]; pseudo-log-likelihoods in nats."""
    num_tokens: Int64
    """[S]; how many were scored."""

    def by(self, *, per_token: bool) -> Float64:
        """[S]; the sums, or the means over the tokens."""
        return self.totals / np.maximum(self.num_tokens, 1) if per_token else self.totals


class SentenceScorer:
    """Scores sentences by pseudo-log-likelihood, each different one once.

    Args:
        model: in evaluation mode, on `device`.
        tokenizer: of its tokens.
        device: where the model is.
        pll_metric: within_word_l2r masks the tokens of a word that follow the scored one as well,
            original the scored one alone.

    Raises:
        InputError: the tokenizer does not say where words begin, which `within_word_l2r` needs.
    """

    def __init__(
        self,
        model: Encoder,
        tokenizer: Tokenizer,
        *,
        device: torch.device,
        pll_metric: PLLMetric = "within_word_l2r",
    ) -> None:
        if pll_metric not in get_args(PLLMetric):
            known = " or ".join(get_args(PLLMetric))
            raise InputError(f"`pll_metric` must be {known}; got {pll_metric}.")
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._tokens_at_once = usual_micro_batch(device, model.config)
        self._continues = np.zeros(tokenizer.vocab_size, dtype=bool)
        if pll_metric == "within_word_l2r":
            try:
                self._continues = tokenizer.continues_word()
            except TokenizerError as error:
                raise InputError(
                    "`pll_metric` within_word_l2r needs a tokenizer that says where words begin; "
                    "this one says where they end. Give original."
                ) from error

    def score(
        self,
        rows: Sequence[Sequence[int]],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> SentenceScores:
        """Score sentences, given by their ids with [CLS] and [SEP].

        Args:
            rows: S of them.
            progress: told the different sentences that are done, and all of them.
        """
        places: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            places[tuple(row)].append(number)
        by_length: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for ids in places:
            by_length[len(ids)].append(ids)
        totals = np.zeros(len(rows))
        done = 0
        for length in sorted(by_length, reverse=True):
            different = by_length[length]
            for first in range(0, len(different), self._sentences_at_once(length)):
                part = different[first : first + self._sentences_at_once(length)]
                for ids, total in zip(part, self._of_one_length(np.array(part)), strict=True):
                    totals[places[ids]] = total
                done += len(part)
                progress(done, len(places))
        return SentenceScores(
            totals, np.array([max(len(row) - 2, 0) for row in rows], dtype=np.int64)
        )

    def _sentences_at_once(self, length: int) -> int:
        return max(1, self._tokens_at_once // (length * max(length - 2, 1)))

    @torch.inference_mode()
    def _of_one_length(self, rows: Int64) -> Float64:
        """Sums over the tokens of each of N sentences [N, L]."""
        copies, labels = masked_copies(rows, self._continues[rows], self._tokenizer.mask_id)
        losses = np.zeros(len(labels))
        scored = np.tile(np.arange(1, rows.shape[1] - 1), len(rows))
        batch = each_masked(copies, scored, labels)
        done = 0
        for part in batch.split(self._tokens_at_once):
            scores = MaskedLM().score(self._model, part.to(self._device))[MLM.name]
            losses[done : done + part.num_masked] = scores.losses.cpu().double().numpy()
            done += part.num_masked
        found: Float64 = -losses.reshape(len(rows), -1).sum(axis=1)
        return found


def masked_copies(rows: Int64, continues: Bool, mask_id: int) -> tuple[Int64, Int64]:
    """A copy of each sentence for each of its tokens, with that masked and the rest of its word.

    Args:
        rows: [N, L]; ids with [CLS] and [SEP].
        continues: [N, L]; whether a token goes on with the word before it.
        mask_id: of [MASK].

    Returns:
        int64 [C, L], sentence by sentence, and the true tokens int64 [C]; C = N · (L − 2).
    """
    length = rows.shape[1]
    places = np.arange(1, length - 1)
    words = np.cumsum(~continues | (np.arange(length) == 1), axis=1)  # [N, L]; [CLS] is a word
    words[:, -1] += 1  # and so is [SEP]
    same_word = words[:, places, None] == words[:, None, :]  # [N, L - 2, L]
    is_masked = same_word & (np.arange(length) >= places[:, None])
    copies = np.where(is_masked, mask_id, rows[:, None, :])
    return copies.reshape(-1, length), rows[:, places].reshape(-1)


def each_masked(copies: Int64, scored: Int64, labels: Int64) -> Batch:
    """A batch of sequences of one length, in each of which one masked token is to be predicted.

    Args:
        copies: int64 [C, L]; ids.
        scored: int64 [C]; the place of that token in each.
        labels: int64 [C]; the true token there.
    """
    num_copies, length = copies.shape
    starts = np.arange(num_copies + 1) * length
    return Batch(
        input_ids=torch.from_numpy(copies.reshape(-1)),
        token_type_ids=torch.zeros(copies.size, dtype=torch.int64),
        position_ids=torch.arange(length).repeat(num_copies),
        cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
        masked_positions=torch.from_numpy(starts[:-1] + scored),
        masked_labels=torch.from_numpy(labels),
        sequence_labels=torch.zeros(0, dtype=torch.int64),
        lengths=(length,) * num_copies,
        num_masked_each=(1,) * num_copies,
    )
