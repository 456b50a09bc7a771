"""What a model fills into held-out sentences: guesses beside the true words.

Legend: M = masked tokens; V = vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from bertsmith.data.store import TokenStore
from bertsmith.objectives.rows import last_rows
from bertsmith.rows import Row, packed
from bertsmith.saved.hugging_face import ModelFolder
from bertsmith.tokenizer import Tokenizer

_SEED = 7
_MASKED = 0.15
_FEWEST_TOKENS, _MOST_TOKENS = 8, 40
_GUESSES = 5


def fills(folder: ModelFolder, store: TokenStore, number: int) -> list[list[dict[str, Any]]]:
    """Sentences, each as its tokens in their order.

    A token has `text`, whether it `continues` the one before, and if it was masked `guesses`
    (`text`, `probability`), the `probability` of the true one, and `right`.

    Args:
        folder: a model with an MLM head.
        store: held-out text in its tokens; the same sentences are taken each time.
        number: of sentences, at most.
    """
    draw = np.random.default_rng(_SEED)
    chosen = _sentences(store, folder.tokenizer, number, draw)
    return [_filled(folder, ids, draw) for ids in chosen]


def _sentences(
    store: TokenStore, tokenizer: Tokenizer, number: int, draw: np.random.Generator
) -> list[list[int]]:
    """Ids of sentences that are neither short nor long, in an order that is always the same."""
    found: list[list[int]] = []
    most = min(_MOST_TOKENS, tokenizer.max_length - 2)
    for place in draw.permutation(store.num_sentences):
        start, end = store.bounds(place[None])
        if _FEWEST_TOKENS <= int((end - start)[0]) <= most:
            ids = store.tokens(start, end - start).tolist()
            if tokenizer.unk_id not in ids:
                found.append(ids)
        if len(found) == number:
            break
    return found


@torch.inference_mode()
def _filled(folder: ModelFolder, ids: list[int], draw: np.random.Generator) -> list[dict[str, Any]]:
    tokenizer = folder.tokenizer
    count = max(1, round(_MASKED * len(ids)))
    masked = sorted(draw.choice(len(ids), size=count, replace=False).tolist())
    shown = [tokenizer.mask_id if i in masked else token for i, token in enumerate(ids)]
    row = Row([tokenizer.cls_id, *shown, tokenizer.sep_id], [0] * (len(ids) + 2))
    tags = [-1, *(token if i in masked else -1 for i, token in enumerate(ids)), -1]
    batch = packed([row], tags=[tags])
    logits = folder.model.mlm_logits(last_rows(folder.model, batch).masked())  # [M, V]
    shares = logits.float().softmax(1)
    tokens = []
    for place, token in enumerate(ids):
        text, continues = tokenizer.text_of(token)
        one: dict[str, Any] = {"text": text, "continues": continues and place > 0}
        if place in masked:
            own = shares[masked.index(place)]
            words = own[tokenizer.regular_ids.tolist()]
            best, places = words.topk(min(_GUESSES, len(words)))
            numbers = tokenizer.regular_ids[places.numpy()]
            guesses = [
                {"text": tokenizer.text_of(guess)[0], "probability": share}
                for guess, share in zip(numbers.tolist(), best.tolist(), strict=True)
            ]
            one |= {
                "guesses": guesses,
                "probability": float(own[token]),
                "right": int(numbers[0]) == token,
            }
        tokens.append(one)
    return tokens


def as_markdown(sentences: list[list[dict[str, Any]]]) -> str:
    """Each sentence with its masked words in brackets, and the guesses for each of them."""
    lines = []
    for sentence in sentences:
        text = "".join(
            f"{'' if token['continues'] or not place else ' '}"
            + (f"[{token['text']}]" if "guesses" in token else token["text"])
            for place, token in enumerate(sentence)
        )
        lines += [text, ""]
        for token in sentence:
            if "guesses" in token:
                guesses = (f"{one['text']} {one['probability']:.1%}" for one in token["guesses"])
                mark = "right" if token["right"] else "wrong"
                lines.append(f"- {token['text']} ({mark}): {', '.join(guesses)}")
        lines.append("")
    return "\n".join(lines)
