"""Commands on trained models and corpora: encode, fill, next, similar, corpora."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from bertsmith import api
from bertsmith.cli.arguments import (
    LONGEST_SHOWN,
    Device,
    Flag,
    OptionalText,
    Precision,
    RunPath,
    Text,
    lines_of,
)
from bertsmith.display import Display, show, show_json
from bertsmith.errors import InputError, printable

if TYPE_CHECKING:
    from bertsmith.inference.model import Encoding


@dataclass(frozen=True, kw_only=True)
class Encode:
    """Represent a text, a pair of texts, or a file of texts as vectors."""

    run: RunPath
    """A run's folder, one of its checkpoints, a Hugging Face folder, or hf:owner/name."""
    text: OptionalText = None
    """The text."""
    text_pair: OptionalText = None
    """A second text, encoded together with the first."""
    compare: tuple[str, ...] = ()
    """Another text (or a pair): show how near the words they share are, by cosine."""
    pooling: Literal["tokens", "cls", "mean"] = "tokens"
    """A vector a token, that of [CLS], or the mean over the words."""
    input: Path | None = None
    """A UTF-8 file with a text a line (a tab parts the two texts of a pair)."""
    output: Path | None = None
    """Where the vectors of --input go: a .npz or .npy file of NumPy, or a .csv table."""
    device: Device = "auto"
    """Where to compute."""
    precision: Precision = "float32"
    """Of matrix products; bfloat16 is quicker where the processor has it, auto takes it there."""
    json: Flag = False
    """Print one JSON object, the vectors in it."""


@dataclass(frozen=True, kw_only=True)
class Fill:
    """Propose words for each [MASK] in a text; a long text is read around its masks."""

    run: RunPath
    """A run's folder, one of its checkpoints, a Hugging Face folder, or hf:owner/name."""
    text: Text
    """A text with [MASK] in it."""
    top_k: int = 5
    """Words to propose."""
    device: Device = "auto"
    """Where to compute."""
    json: Flag = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Next:
    """Judge whether a sentence follows another."""

    run: RunPath
    """A run's folder, one of its checkpoints, a Hugging Face folder, or hf:owner/name."""
    sentence_a: Text
    """The first sentence."""
    sentence_b: Text
    """The one that may follow it."""
    device: Device = "auto"
    """Where to compute."""
    json: Flag = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Similar:
    """Rank the places where a word stands in a text by the nearness of its vectors."""

    run: RunPath
    """A run's folder, one of its checkpoints, a Hugging Face folder, or hf:owner/name."""
    word: str
    """The word."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """A text, read line by line."""
    to: Annotated[str | None, tyro.conf.arg(metavar="TEXT")] = None
    """A text with the word, to whose place there the others are compared."""
    place: int = 1
    """Without --to, which of the places in the file the others are compared to."""
    top_k: int = 10
    """Nearest places to show."""
    device: Device = "auto"
    """Where to compute."""
    json: Flag = False
    """Print one JSON object."""


@dataclass(frozen=True, kw_only=True)
class Corpora:
    """List the corpora known by name, and what of them is on disk."""

    json: Flag = False
    """Print one JSON object."""


def encode(command: Encode) -> None:
    """Print the vectors of a text, or write those of a file."""
    if (command.input is None) == (command.text is None):
        raise InputError("Give a text to encode, or a file of texts with --input; one of the two.")
    if (command.input is None) != (command.output is None):
        raise InputError("--input FILE and --output FILE go together; only one was given.")
    if len(command.compare) > 2:
        raise InputError(f"--compare takes a text or a pair; got {len(command.compare)} texts.")
    if command.input is not None and command.output is not None:
        _encode_file(command, command.input, command.output)
        return
    from bertsmith.inference.model import load

    model = load(command.run, device=command.device, precision=command.precision)
    assert command.text is not None
    found = model.encode_one(command.text, command.text_pair)
    other = model.encode_one(*command.compare) if command.compare else None
    if command.json:
        show_json(_as_json(found, other, command.pooling))
    else:
        _print_encoding(found, other, command.pooling)


def fill(command: Fill) -> None:
    """Print the likeliest words for each mask."""
    from bertsmith.inference.model import load

    masks = load(command.run, device=command.device).fill(command.text, top_k=command.top_k)
    if command.json:
        show_json({"masks": [[asdict(word) for word in words] for words in masks]})
        return
    for number, words in enumerate(masks, start=1):
        if len(masks) > 1:
            show(f"mask {number} of {len(masks)}")
        pairs = enumerate(zip(command.text, words[0].text, strict=False))
        place = next((i for i, (old, new) in pairs if old != new), 0)  # where the mask is
        for word in words:
            show(f"{word.probability:7.2%}  {printable(_around(word.text, place))}")
        if number < len(masks):
            show()


def _around(text: str, place: int) -> str:
    """A text, or what stands around a place in it if it is long."""
    begin, end = max(0, place - LONGEST_SHOWN // 2), place + LONGEST_SHOWN // 2
    if len(text) <= LONGEST_SHOWN:
        return text
    return f"{'…' * (begin > 0)}{text[begin:end]}{'…' * (end < len(text))}"


def next_sentence(command: Next) -> None:
    """Print the probability that B follows A."""
    from bertsmith.inference.model import load

    model = load(command.run, device=command.device)
    probability = model.next_sentence(command.sentence_a, command.sentence_b)
    verdict = probability >= 0.5
    if command.json:
        show_json({"probability": probability, "follows": verdict})
    else:
        show(f"{probability:.1%} that the second follows: {'yes' if verdict else 'no'}")


def similar(command: Similar) -> None:
    """Print the places of a word, the nearest first."""
    from rich.cells import cell_len

    from bertsmith.inference.similar import SHOWN, Place

    if command.top_k < 1:
        raise InputError(f"`top_k` must be at least 1; got {command.top_k}.")
    reference, others = api.similar(
        command.run,
        command.word,
        command.file,
        to=command.to,
        place=command.place,
        device=command.device,
        quiet=command.json,
    )

    def row(place: Place) -> dict[str, object]:
        return {"line": place.line, "left": place.left, "word": place.word, "right": place.right}

    shown = others[: command.top_k]
    if command.json:
        nearest = [{**row(place), "cosine": cosine} for place, cosine in shown]
        show_json({"to": row(reference), "places": len(others), "nearest": nearest})
        return
    where = "given" if command.to else f"line {reference.line}"
    parts = map(printable, (reference.left, reference.word, reference.right))
    show("to:     {}[{}]{}  ({})".format(*parts, where))
    show(f"{len(others):,} other places; the nearest by the cosine of the word's vectors:")
    for place, cosine in shown:
        left, word, right = map(printable, (place.left, place.word, place.right))
        left = f"…{left}" if len(place.left) == SHOWN else left
        right = f"{right}…" if len(place.right) == SHOWN else right
        room = " " * (SHOWN + 1 - cell_len(left))
        show(f"{cosine:.4f}  {room}{left}[{word}]{right}  (line {place.line})")


def corpora(command: Corpora) -> None:
    """Print the known corpora."""
    from bertsmith.corpus.cache import cache_folder

    found = api.corpora()
    if command.json:
        show_json(found)
        return
    stores = found.pop("prepared")
    for name, row in found.items():
        where = row["on_disk"] or f"not yet in {cache_folder()}"
        show(f"{name:12} {row['about']}\n{'':12} {where}")
    megabytes = stores["bytes"] / 1e6
    show(
        f"{'prepared':12} {stores['stores']} texts that runs were trained on, {megabytes:,.0f} MB; "
        f"may be removed\n{'':12} {stores['on_disk']}"
    )


def _as_json(found: Encoding, other: Encoding | None, pooling: str) -> dict[str, object]:
    from bertsmith.inference.model import compare, cosine_similarity

    row: dict[str, object] = {
        "token_texts": found.token_texts,
        "pooling": pooling,
        "shape": list(found.pooled(pooling).shape),
        "vectors": found.pooled(pooling).tolist(),
    }
    if other is not None:
        row["cosine"] = {
            "text": cosine_similarity(found.cls, other.cls),
            "words": dict(compare(found, other)),
        }
    return row


def _print_encoding(found: Encoding, other: Encoding | None, pooling: str) -> None:
    from rich.cells import cell_len

    from bertsmith.inference.model import compare, cosine_similarity

    vectors = found.pooled(pooling)
    show(f"{pooling}: float32 {list(vectors.shape)}")
    rows = vectors if pooling == "tokens" else vectors[None]
    names = [pooling]
    if pooling == "tokens":
        names = [
            word if word == token else f"{word} {token}"
            for word, token in zip(found.words, found.token_texts, strict=True)
        ]
    names = [printable(name) for name in names]
    width = max(map(cell_len, names))
    for name, vector in zip(names, rows, strict=True):
        figures = " ".join(f"{value:6.2f}" for value in vector[:6])
        show(f"  {name}{' ' * (width - cell_len(name))}  {figures} …")
    if other is None:
        return
    show(f"beside: {printable(' '.join(other.words))}")
    show(f"cosine of the texts ([CLS]): {cosine_similarity(found.cls, other.cls):.4f}")
    shared = compare(found, other)
    for word, cosine in shared:
        show(f"cosine of {word!r} in the two contexts: {cosine:.4f}")
    if not shared:
        show("no word stands in both")


def _read_texts(path: Path) -> list[str | tuple[str, str]]:
    parts = (line.partition("\t") for line in lines_of(path))
    return [(a, b) if tab else a for a, tab, b in parts]


def _encode_file(command: Encode, source: Path, target: Path) -> None:
    """Write the vectors of a file's texts."""
    from bertsmith.inference.model import load
    from bertsmith.inference.vectors_file import refuse_output, write_vectors

    if command.compare:
        raise InputError("--compare is for a text, not for --input; leave one of them out.")
    refuse_output(target, command.pooling)
    texts = _read_texts(source)
    model = load(command.run, device=command.device, precision=command.precision)
    with Display(quiet=command.json).stage("Encoding") as progress:

        def counted() -> Iterator[Encoding]:
            for done, one in enumerate(model.encode_each(texts), start=1):
                yield one
                progress(done, len(texts))

        found = write_vectors(target, counted(), command.pooling)
    shape = list(found.shape)
    if command.json:
        figures = {"texts": found.num_texts, "cut_texts": found.num_cut, "shape": shape}
        show_json({**figures, "output": str(target)})
        return
    longest = model.tokenizer.max_length
    cut = f"; {found.num_cut} of them cut to {longest} tokens" if found.num_cut else ""
    show(f"{found.num_texts:,} texts{cut}; float32 {shape} in {printable(str(target))}")
