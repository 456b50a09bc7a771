"""A vocabulary and its rules: text into ids and back, and a Hugging Face fast tokenizer on disk."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken, processors
from tokenizers import Tokenizer as Backend

from bertsmith.corpus import UNKNOWN_WORD
from bertsmith.errors import TokenizerError
from bertsmith.tokenizer.bounds import batches, pieces
from bertsmith.tokenizer.examine import guarded
from bertsmith.tokenizer.folder import (
    CONFIG_FILE,
    ROLES,
    SPECIAL_TOKENS,
    TOKENIZER_FILE,
    bert_settings,
    read_folder,
)

PAD, UNK, CLS, SEP, MASK = SPECIAL_TOKENS

_ALIASES = {"cls": "bos", "sep": "eos"}  # roles that serve where a folder has no other
_OTHER_NAMES = ("<pad>", "<unk>", "<s>", "</s>", "<mask>")  # RoBERTa's, where nothing is said

_LONGEST_TEXT = 2**20
"""Characters of a text that is read for a model, which takes some thousand tokens of it at most."""

# Characters that are words on their own, though no space stands before them.
_CHINESE = "\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_STANDS_ALONE = re.compile(f"[{_CHINESE}]")

# Of scripts that are written without spaces: Thai, Lao, Burmese and Khmer as well.
_WITHOUT_SPACES = re.compile(f"[{_CHINESE}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")


class TokenizedText(NamedTuple):
    """A text as a model reads it: n tokens, special ones counted."""

    ids: list[int]
    segments: list[int]
    """0 = first text, 1 = second."""
    tokens: list[str]
    """Vocabulary entries."""
    words: list[str]
    """The same, but with what stood in the text in the place of [UNK]."""


class Tokenizer:
    """A vocabulary and the rules that turn text into ids of it.

    Attributes:
        vocab_size: entries, special ones counted.
        pad, unk, cls, sep, mask: the special tokens, by name.
        pad_id, unk_id, cls_id, sep_id, mask_id: their ids.
        lowercase: whether upper and lower case are the same.
        special_ids: int64 [5], sorted.
        regular_ids: int64, sorted: the ids of all others, of which a random word is drawn.
        max_length: longest sequence its model was trained on, in tokens.
        joins_by_space: whether a sentence that follows another must begin with a space, since words
            hold the space before them and none is put before the first.
    """

    def __init__(
        self,
        backend: Backend,
        max_length: int,
        *,
        lowercase: bool = True,
        special_tokens: Sequence[str] = SPECIAL_TOKENS,
    ) -> None:
        self._backend = backend
        self.lowercase = lowercase
        self.max_length = max_length
        self.vocab_size = backend.get_vocab_size()
        vocabulary = backend.get_vocab()
        missing = [token for token in special_tokens if token not in vocabulary]
        if missing:
            raise TokenizerError(f"The tokenizer must have {' '.join(missing)}; it has not.")
        if max(vocabulary.values()) >= self.vocab_size:
            raise TokenizerError(
                f"The tokenizer's {self.vocab_size} entries must have the ids from 0 to "
                f"{self.vocab_size - 1}; one has {max(vocabulary.values())}."
            )
        ids = [vocabulary[token] for token in special_tokens]
        if len(set(ids)) < len(ids):
            names = " ".join(special_tokens)
            raise TokenizerError(f"The tokenizer's special tokens must differ; they are {names}.")
        self.pad, self.unk, self.cls, self.sep, self.mask = special_tokens
        self.pad_id, self.unk_id, self.cls_id, self.sep_id, self.mask_id = ids
        self.special_ids = np.array(sorted(ids), dtype=np.int64)
        self.regular_ids = np.setdiff1d(np.arange(self.vocab_size), self.special_ids)
        try:
            backend.post_processor = processors.TemplateProcessing(
                single=f"{self.cls} $A {self.sep}",
                pair=f"{self.cls} $A {self.sep} $B:1 {self.sep}:1",
                special_tokens=[(self.cls, self.cls_id), (self.sep, self.sep_id)],
            )
        except ValueError as error:
            names = f"{self.cls!r} and {self.sep!r}"
            raise TokenizerError(f"The tokenizer cannot have {names} as ends: {error}.") from error
        rules = json.loads(backend.to_str())
        self._spelling = _spelling_of(rules)
        self._prefix = str((rules["model"] or {}).get("continuing_subword_prefix") or "")
        self._suffix = (rules["model"] or {}).get("end_of_word_suffix")
        self.joins_by_space = self._spelling == "bytes" and '"add_prefix_space": true' not in (
            json.dumps(rules["pre_tokenizer"])
        )
        self._added: dict[int, str] = {
            entry["id"]: entry["content"]
            for entry in rules.get("added_tokens", ())
            if not entry["special"]
        }
        self._reserved = np.zeros(self.vocab_size, dtype=bool)
        self._reserved[self.special_ids] = True
        self._reserved[self.unk_id] = False

    @property
    def special_tokens(self) -> tuple[str, str, str, str, str]:
        """The names of the special tokens, in the order of `ROLES`."""
        return self.pad, self.unk, self.cls, self.sep, self.mask

    @property
    def id_type(self) -> type[np.unsignedinteger]:
        """What ids are stored in: uint16 if it holds them, else uint32."""
        return np.uint16 if self.vocab_size <= 2**16 else np.uint32

    def encode_text(
        self, sentences: Sequence[str]
    ) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.int64]]:
        """Ids of sentences without special tokens: corpus text on its way to the store.

        A special token that stands in the text by its name, such as "[MASK]" in an article about
        BERT, is an unknown word there: text must not be able to say where a sequence ends.

        Returns:
            The ids of all sentences end to end, of `id_type`; and each one's length, int64.
        """
        texts = list(sentences)
        if self.unk != UNKNOWN_WORD:
            texts = [text.replace(UNKNOWN_WORD, self.unk) for text in texts]
        parts = [list(pieces(text)) for text in texts]
        texts_of_parts = chain.from_iterable(parts)
        found = [self._ids_of(batch) for batch in batches(texts_of_parts, len(texts))]
        ids = np.concatenate([ids for ids, _ in found] or [np.empty(0, dtype=self.id_type)])
        ids[self._reserved[ids]] = self.unk_id
        lengths = np.concatenate([lengths for _, lengths in found] or [np.empty(0, np.int64)])
        if len(lengths) > len(texts):
            firsts = np.cumsum([0, *map(len, parts)])[:-1]
            lengths = np.add.reduceat(lengths, firsts)
        return ids, lengths

    def _ids_of(
        self, texts: list[str]
    ) -> tuple[npt.NDArray[np.unsignedinteger], npt.NDArray[np.int64]]:
        """Ids of texts end to end, and how many each has."""
        encodings = guarded(self._backend.encode_batch_fast, texts, add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        ids = np.fromiter(chain.from_iterable(rows), dtype=self.id_type, count=int(lengths.sum()))
        return ids, lengths

    def continues_word(self) -> npt.NDArray[np.bool_]:
        """Of each entry, whether it goes on with the word before it: bool [vocab_size].

        Raises:
            TokenizerError: its entries do not say.
        """
        if self._suffix:
            raise TokenizerError(
                f"Words are told apart by how they begin, and this tokenizer marks how they end "
                f"({self._suffix!r}): it can only be masked by tokens (--masking token)."
            )
        found = np.zeros(self.vocab_size, dtype=bool)
        for token, number in self._backend.get_vocab().items():
            found[number] = self._continues(token, number)
        found[self.special_ids] = False
        return found

    def begins_word(self) -> npt.NDArray[np.bool_]:
        """Of each entry, whether it has letters or digits and begins a word: bool [vocab_size].

        Where words are told by how they end, each of their pieces counts.
        """
        found = np.zeros(self.vocab_size, dtype=bool)
        for token, number in self._backend.get_vocab().items():
            is_word = self._spelling == "bytes" or any(map(str.isalnum, token))
            found[number] = is_word and (bool(self._suffix) or not self._continues(token, number))
        found[self.special_ids] = False
        return found

    def _continues(self, token: str, number: int) -> bool:
        if number in self._added:  # found as words of their own
            return False
        if self._spelling == "pieces":
            return bool(self._prefix) and token.startswith(self._prefix)
        text = token.replace("\u2581", " ")  # the mark of a space
        if self._spelling == "bytes":
            text = self._backend.decode([number], skip_special_tokens=False)
            if token.startswith("\u0120"):  # the byte of a space, as it is written
                return False
        if not text or text[0].isspace() or _STANDS_ALONE.match(text):
            return False
        # Marks go on with a word, and so do bytes that are no whole character.
        return text[0] == "\ufffd" or unicodedata.category(text[0])[0] not in "PSZC"

    def text_of(self, token_id: int) -> tuple[str, bool]:
        """An entry as it is read, and whether it goes on with the word before it."""
        token = self.token(token_id)
        continues = self._continues(token, token_id)
        if self._spelling == "pieces":
            return (token.removeprefix(self._prefix) if continues else token), continues
        return self._backend.decode([token_id], skip_special_tokens=False).strip(), continues

    def encode(self, text: str, text_pair: str | None = None) -> TokenizedText:
        """[CLS] text [SEP] (text_pair [SEP]), uncut, of the first million characters of each."""
        text, text_pair = _bounded(text), text_pair and _bounded(text_pair)
        encoding = guarded(self._backend.encode, text, text_pair)
        texts = (text, text_pair or "")
        tokens = [self.token(number) for number in encoding.ids]
        words = [
            token
            if sequence is None or (token != self.unk and self._spelling == "pieces")
            else texts[sequence][slice(*place)].strip() or token
            for token, sequence, place in zip(
                tokens, encoding.sequence_ids, encoding.offsets, strict=True
            )
        ]
        return TokenizedText(encoding.ids, encoding.type_ids, tokens, words)

    def encode_with_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of a text without special tokens, and the characters that each stands for."""
        encoding = guarded(self._backend.encode, text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def encode_many(
        self, texts: Sequence[tuple[str, str | None]]
    ) -> list[tuple[list[int], list[int]]]:
        """Ids and segments, as `encode` gives them; many at once."""
        bounded = [(_bounded(a), b if b is None else _bounded(b)) for a, b in texts]
        rows = guarded(
            self._backend.encode_batch_fast, [(a, b) if b is not None else a for a, b in bounded]
        )
        return [(row.ids, row.type_ids) for row in rows]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return str(self._backend.decode(list(ids)))

    def token(self, token_id: int) -> str:
        """The vocabulary entry with the id `token_id`."""
        return str(self._backend.id_to_token(int(token_id)))

    def with_added(self, tokens: Sequence[str]) -> Tokenizer:
        """The same with `tokens` as further entries, which a text is searched for before all else.

        They are what `add_tokens` of transformers adds: a token is found as a word of its own, not
        inside another (but in scripts that are written without spaces), and upper case is folded
        where the tokenizer folds it. With tokenizers that keep the space before a word in its
        first piece, an added token takes that space in: `decode` gives none before it. Those that
        put a space before a text put one after an added token, too.

        Args:
            tokens: none of which is an entry; their ids follow the last one's, in this order.
        """
        backend = Backend.from_str(self._backend.to_str())
        backend.add_tokens(
            [
                AddedToken(
                    token,
                    single_word=not _WITHOUT_SPACES.search(token[0] + token[-1]),
                    lstrip=self._spelling != "pieces",
                    # Not where a text's spaces become other characters, or others become spaces.
                    normalized=self._normalized(f"{token} a").count(" ") == token.count(" ") + 1,
                )
                for token in tokens
            ]
        )
        special = self.special_tokens
        return Tokenizer(backend, self.max_length, lowercase=self.lowercase, special_tokens=special)

    def added_since(self, before: Tokenizer) -> list[str] | None:
        """The tokens with which `before.with_added` is this one; None if none make it so."""
        numbers = range(before.vocab_size, self.vocab_size)
        tokens = [self._added[number] for number in numbers if number in self._added]
        return tokens if before.with_added(tokens).sha256() == self.sha256() else None

    def pieces_of(self, words: Sequence[str]) -> list[list[int]]:
        """Ids of what each of `words` is made of inside a text."""
        before = " " if self.joins_by_space else ""
        ids, lengths = self.encode_text([f"{before}{word}" for word in words])
        return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]

    def not_entries(self, words: Sequence[str]) -> list[str]:
        """Those of `words` that are no entries; of those that it reads as the same, the first."""
        by_reading = {self._normalized(word): word for word in reversed(words)}
        found = [
            word for word in dict.fromkeys(words) if by_reading[self._normalized(word)] == word
        ]
        return [
            word
            for word, ids in zip(found, self.pieces_of(found), strict=True)
            if self._backend.token_to_id(word) is None and (len(ids) > 1 or self.unk_id in ids)
        ]

    def _normalized(self, text: str) -> str:
        normalizer = self._backend.normalizer
        return str(normalizer.normalize_str(text)) if normalizer else text

    def sha256(self) -> str:
        """A digest of all that says how text becomes ids."""
        return hashlib.sha256(self._backend.to_str().encode("utf-8")).hexdigest()

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`, as `AutoTokenizer` reads them."""
        config = {
            # The general class takes tokenizer.json as it stands; BERT's own would rebuild it.
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.max_length,
            "do_lower_case": self.lowercase,
            **bert_settings(json.loads(self._backend.to_str())),
            "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            **{
                f"{role}_token": token
                for role, token in zip(ROLES, self.special_tokens, strict=True)
            },
        }
        (folder / TOKENIZER_FILE).write_text(self._backend.to_str(pretty=True), encoding="utf-8")
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, default_max_length: int) -> Tokenizer:
        """Read a Hugging Face fast tokenizer, or a vocabulary of BERT's.

        Args:
            folder: holds `tokenizer.json` or `vocab.txt`, and `tokenizer_config.json` or not.
            default_max_length: taken where the folder does not say one.

        Raises:
            TokenizerError: the files are missing, damaged, or lack BERT's special tokens; or they
                would make far more of a text than it is.
        """
        backend, config = read_folder(folder)
        try:
            max_length = min(
                int(config.get("model_max_length", default_max_length)), default_max_length
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise TokenizerError(f"The tokenizer in {folder} is damaged: {error}.") from error
        lowercase = bool(config.get("do_lower_case", True))
        special_tokens = _special_tokens(config, backend)
        return cls(backend, max_length, lowercase=lowercase, special_tokens=special_tokens)


def _bounded(text: str) -> str:
    return text[:_LONGEST_TEXT]


def _special_tokens(config: dict[str, Any], backend: Backend) -> list[str]:
    """The names of the five roles: as the folder's config says, else BERT's, else RoBERTa's."""

    def named(role: str) -> str | None:
        entry = config.get(f"{role}_token")
        content = entry.get("content") if isinstance(entry, dict) else entry
        return content if isinstance(content, str) else None

    found = []
    for role, usual, other in zip(ROLES, SPECIAL_TOKENS, _OTHER_NAMES, strict=True):
        known = backend.token_to_id(usual) is None and backend.token_to_id(other) is not None
        alias = named(_ALIASES[role]) if role in _ALIASES else None
        found.append(named(role) or (other if known else None) or alias or usual)
    return found


def _spelling_of(rules: dict[str, Any]) -> str:
    """How entries say where words begin: "pieces" (## goes on), "bytes" (Ġ begins), "spaces"."""
    text = json.dumps([rules.get("pre_tokenizer"), rules.get("decoder")])
    if '"ByteLevel"' in text:
        return "bytes"
    return "spaces" if '"Metaspace"' in text else "pieces"
