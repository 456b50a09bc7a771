"""Hugging Face datasets, from the hub (`hf:owner/name`) or saved on disk; needs `datasets`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from bertsmith.corpus.assemble import Rules
from bertsmith.corpus.document import Corpus, Document, Part, labelled
from bertsmith.corpus.files import documents_of_rows
from bertsmith.corpus.lines import PART_BYTES
from bertsmith.corpus.rows import good_texts
from bertsmith.corpus.tables import Columns, Record, no_column
from bertsmith.errors import CorpusError
from bertsmith.extras import require

PREFIX = "hf:"

_ROWS_AT_ONCE = 1024
_SETTINGS = ("config", "split", "revision", "column")
_SPLITS = {"train": "train", "validation": "validation", "valid": "validation", "test": "test"}


@dataclass(frozen=True)
class Address:
    """What stands behind `hf:`, as in "hf:owner/name,config=raw,split=train,revision=main"."""

    name: str
    config: str | None = None
    """One of the dataset's configurations; None: its only or default one."""
    split: str | None = None
    """Taken as training text; None: train, and validation and test where there are any."""
    revision: str | None = None
    """A branch, tag or commit."""
    column: str | None = None
    """Of the text; None: as `--text-column` says."""

    @staticmethod
    def parse(text: str) -> Address:
        """Read "hf:owner/name,setting=value,…". Raises: `CorpusError`."""
        name, *settings = text.removeprefix(PREFIX).split(",")
        pairs = dict(setting.partition("=")[::2] for setting in settings)
        unknown = set(pairs) - set(_SETTINGS)
        if not name or unknown or not all(pairs.values()):
            raise CorpusError(
                f"{text!r} must be hf:owner/name, and after it maybe "
                f"{', '.join(f',{setting}=…' for setting in _SETTINGS)}."
            )
        return Address(name, **pairs)


def is_saved_dataset(path: Path) -> bool:
    """Whether `path` is a folder that `Dataset.save_to_disk` wrote."""
    return (path / "dataset_dict.json").is_file() or (
        (path / "state.json").is_file() and (path / "dataset_info.json").is_file()
    )


def open_dataset(name: str, rules: Rules, columns: Columns) -> Corpus:
    """The dataset `name`: an address with `hf:`, or a folder of `is_saved_dataset`.

    Raises:
        CorpusError: there is no such dataset.
        MissingExtraError: the library is not installed.
    """
    address = Address.parse(name) if name.startswith(PREFIX) else Address(name)
    if address.column:
        columns = replace(columns, text=address.column)
    found = _load(address)
    if not isinstance(found, dict):
        found = {"train": found}
    if address.split is not None:
        found = {"train": _split(name, address.split, found)}
    splits = {_SPLITS[split]: data for split, data in found.items() if split in _SPLITS}
    if "train" not in splits:
        raise CorpusError(
            f"{name} must have a split train, or one must be named (,split=…); "
            f"it has {', '.join(found)}."
        )
    for data in splits.values():
        if _top(data, columns.text) not in data.column_names:
            raise CorpusError(no_column(name, columns.text, data.column_names))
    return Corpus(
        name=name,
        pretokenized=False,
        splits=tuple(splits),
        find_parts=lambda: [
            part
            for split, data in splits.items()
            for part in _parts(name, split, data, rules, columns)
        ],
        has_tables=True,
        max_bad_rows=columns.max_bad_rows,
        content=tuple(
            partial(labelled, f"{split} {columns} {data._fingerprint}")
            for split, data in splits.items()
        ),
    )


def _split(name: str, wanted: str, found: dict[str, Any]) -> Any:
    """A split, or slices of splits as the library writes them: "train[:10%]+test[-100:]"."""
    import datasets

    try:
        sizes = {split: len(data) for split, data in found.items()}
        slices = datasets.ReadInstruction.from_spec(wanted).to_absolute(sizes)
    except (ValueError, AssertionError, KeyError) as error:
        known = ", ".join(found)
        raise CorpusError(
            f"{name} must have the split {wanted!r}; it has {known}. A part of one is named as "
            "in train[:10%] or train[1000:2000]."
        ) from error
    pieces = [found[one.splitname].select(range(one.from_, one.to)) for one in slices]
    return pieces[0] if len(pieces) == 1 else datasets.concatenate_datasets(pieces)


def _load(address: Address) -> Any:
    require("datasets", f"The corpus {address.name}")
    import datasets

    try:
        if is_saved_dataset(Path(address.name)):
            return datasets.load_from_disk(address.name)
        return datasets.load_dataset(address.name, name=address.config, revision=address.revision)
    except Exception as error:  # of the library, or of the network below it
        raise CorpusError(
            f"Cannot load the dataset {address.name}: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''} Check its name, its "
            "configuration and the network; a folder that save_to_disk wrote needs none."
        ) from error


def _parts(name: str, split: str, data: Any, rules: Rules, columns: Columns) -> list[Part]:
    """Parts of `data`, each of rows of about `PART_BYTES`; one if documents are not rows."""
    num_rows, size = len(data), int(data.data.nbytes)
    count = max(1, round(size / PART_BYTES)) if rules.documents == "auto" else 1
    cuts = [num_rows * number // count for number in range(count + 1)]
    return [
        Part(
            partial(_read, name, data, slice(first, end), rules, columns), split, size=size // count
        )
        for first, end in itertools.pairwise(cuts)
    ]


def _read(
    name: str, data: Any, place: slice, rules: Rules, columns: Columns, left_out: Counter[str]
) -> Iterator[Document]:
    is_whole = place == slice(0, len(data))
    rows = good_texts(name, _rows(data, place, columns), columns, left_out, is_whole=is_whole)
    yield from documents_of_rows(rows, rules, left_out)


def _top(data: Any, column: str) -> str:
    """A column, or the one of which it is a field."""
    return column if column in data.column_names else column.partition(".")[0]


def _rows(data: Any, place: slice, columns: Columns) -> Iterator[Record]:
    data = data.select_columns([_top(data, columns.text)])
    for first in range(place.start, place.stop, _ROWS_AT_ONCE):
        batch = data[first : min(first + _ROWS_AT_ONCE, place.stop)]
        for number, values in enumerate(zip(*batch.values(), strict=True), start=first + 1):
            yield Record(number, dict(zip(batch, values, strict=True)))
