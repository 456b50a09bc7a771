"""Damages the files of a store, a run, a checkpoint, a model, a configuration or a corpus, and
reads them.

    python -m tests.faults.fuzz FOLDER KIND SEED NUMBER

A process of its own, so that a crash, a hang or the taking of memory ends it and nothing else. What
is tried is written to a file tried.json before it is read, in a folder beside FOLDER.

Each mutant must be refused by a `BertsmithError` in one line, or be read; where checksums guard the
file, what was read must equal what the undamaged file gives.
"""

from __future__ import annotations

import base64
import copy
import gzip
import hashlib
import json
import lzma
import random
import resource
import shutil
import signal
import sys
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow
import pyarrow.parquet

from bertsmith.config import TrainingConfig, resolve
from bertsmith.corpus import Columns, open_corpus
from bertsmith.data.disk import open_store
from bertsmith.data.manifest import MANIFEST_FILE, Manifest
from bertsmith.durable import CHECKSUMS_FILE, damage
from bertsmith.errors import BertsmithError
from bertsmith.inference.model import load
from bertsmith.reporting.curves import draw_curves
from bertsmith.reporting.metrics_file import METRICS_FILE, MetricsFile
from bertsmith.saved.hugging_face import load_model
from bertsmith.saved.locate import checkpoint_folder
from bertsmith.tokenizer import TOKENIZER_FILES
from bertsmith.training.averaging import WeightAverage
from bertsmith.training.checkpoint import OPTIMIZER_FILE, STATE_FILE, restore
from bertsmith.training.earlier import EarlierRun
from bertsmith.training.optimizer import make_optimizers
from bertsmith.training.progress import Progress
from bertsmith.training.run import Run

SECONDS = 20
"""The longest that one mutant may take."""
MEMORY = 2 * 2**30
"""Bytes that reading may take beside what the process has before it begins."""

Reader = Callable[[Path], object]
Repair = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A folder, and what reads it.

    Attributes:
        files: patterns of the files that are damaged.
        read: gives what is held against the same of the undamaged folder.
        is_guarded: whether a difference must be noticed.
        repair: makes checksums fit again, as one would who damages a folder with intent.
    """

    files: tuple[str, ...]
    read: Reader
    is_guarded: bool
    repair: Repair | None = None


def read_store(folder: Path) -> object:
    """All that a run takes from a store."""
    store = open_store(folder)
    store.check()
    tokenizer = store.tokenizer(64)
    found: list[object] = [tokenizer.sha256(), store.manifest.report]
    for name in sorted(store.manifest.splits):
        split = store.split(name)
        found.append([shard.sha256() for shard, *_ in split.shards()])
        found.append(split.frequencies(tokenizer.vocab_size).tolist())
    return found


def read_model(folder: Path) -> object:
    """All that a model gives."""
    model = load(folder, device="cpu")
    state = {name: value.tolist() for name, value in model.bert.state_dict().items()}
    return model.tokenizer.sha256(), model.tokenizer.max_length, state


def read_checkpoint(folder: Path) -> object:
    """What a run that is resumed does with a checkpoint."""
    if wrong := damage(folder):
        raise BertsmithError(wrong)
    model = load_model(folder).model
    held = Progress.read(folder / STATE_FILE).held
    config = TrainingConfig(optimizer=held.get("optimizer", "adamw"))
    average = WeightAverage(model, config)
    return restore(folder, model, make_optimizers(model, config), average).to_json()


def read_run(run: Path) -> object:
    """What a run that is resumed, or asked again for its end, does with its files."""
    earlier = EarlierRun.read(run)
    earlier.refuse_differences(earlier.config)
    if earlier.is_finished:
        Run(output=run, metrics=earlier.last_line).closing_lines()
    if not zlib.crc32((run / METRICS_FILE).read_bytes()) % 20:  # it takes most of a second
        draw_curves(run)
    with MetricsFile(run) as metrics:
        progress = Progress.read(checkpoint_folder(run, 8) / STATE_FILE)
        metrics.cut(progress.metrics_bytes, progress.spent.step)
    return earlier.is_finished


def read_corpora(folder: Path) -> object:
    """Every file of a folder, each as a corpus of its own, as a preparation does."""
    columns = Columns(max_bad_rows=1.0)
    for path in sorted(folder.iterdir()):
        corpus = open_corpus([str(path)], columns=columns, validation_fraction=0)
        for digest in corpus.content:
            digest()
        for _ in corpus.read("train", Counter()):
            pass
    return None


def write_corpora(folder: Path, documents: list[str]) -> None:
    """A file of each kind that a corpus may be."""
    folder.mkdir()
    rows = [{"text": text} for text in documents]
    plain = "\n\n".join(documents)
    quoted = ['"' + text.replace('"', '""') + '"' for text in documents]
    texts = {
        "a.txt": plain,
        "a.md": plain.replace("\n", "\r"),
        "a.jsonl": "\n".join(map(json.dumps, rows)),
        "a.json": json.dumps(rows, indent=1),
        "a.csv": "\n".join(["text;label", *(f"{text};1" for text in quoted)]),
        "a.tsv": "\n".join(["text\tlabel", *(f"{text}\t1" for text in documents)]),
    }
    files = {name: text.encode() for name, text in texts.items()}
    files["sixteen.txt"] = plain.encode("utf-16")
    files |= {
        "a.txt.gz": gzip.compress(files["a.txt"], mtime=0),
        "a.jsonl.xz": lzma.compress(files["a.jsonl"]),
        "wiki_00.zst": pyarrow.compress(files["a.jsonl"], codec="zstd", asbytes=True),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "a.parquet")
    for ending in ("zip", "tar", "tar.gz"):
        place = folder.with_name(f"members.{ending}")
        if ending == "zip":
            with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
                for name in sorted(files):
                    archive.write(folder / name, name)
        else:
            with tarfile.open(place, "w:gz" if ending == "tar.gz" else "w") as members:
                for name in sorted(files):
                    members.add(folder / name, name)
        place.rename(folder / place.name)


def repair_sums(folder: Path) -> None:
    """Checksums of a checkpoint as it is now."""
    files = sorted(path for path in folder.iterdir() if path.name != CHECKSUMS_FILE)
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / CHECKSUMS_FILE).write_text("".join(lines))


def repair_store(folder: Path) -> None:
    """A manifest that fits its files, by whatever means the manifest has."""
    manifest = json.loads((folder / MANIFEST_FILE).read_bytes())

    def digest(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()

    for name, split in manifest["splits"].items():
        for shard in split["shards"]:
            shard["sha256"] = digest(shard["file"])
            shard["bytes"] = (folder / shard["file"]).stat().st_size
        split["frequencies_sha256"] = digest(f"{name}/frequencies.npy")
        digests = "\n".join(shard["sha256"] for shard in split["shards"])
        manifest["report"]["sha256"][name] = hashlib.sha256(digests.encode()).hexdigest()
    digests = "".join(digest(f"tokenizer/{name}") for name in TOKENIZER_FILES)
    manifest["tokenizer_sha256"] = hashlib.sha256(digests.encode()).hexdigest()
    (folder / MANIFEST_FILE).write_bytes(msgspec.convert(manifest, Manifest).to_json())


_MODEL = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_STORE = ("tokenizer/*.json", "*/*.arrow", "*/frequencies.npy")

KINDS: dict[str, Kind] = {
    "store": Kind(files=(MANIFEST_FILE, *_STORE), read=read_store, is_guarded=True),
    "store, made to fit": Kind(
        files=_STORE, read=read_store, is_guarded=False, repair=repair_store
    ),
    "checkpoint": Kind(files=("*",), read=read_checkpoint, is_guarded=True),
    "checkpoint, made to fit": Kind(
        files=(*_MODEL, STATE_FILE, OPTIMIZER_FILE),
        read=read_checkpoint,
        is_guarded=False,
        repair=repair_sums,
    ),
    "model": Kind(files=("*",), read=read_model, is_guarded=True),
    "model, made to fit": Kind(files=_MODEL, read=read_model, is_guarded=False, repair=repair_sums),
    "corpora": Kind(files=("*",), read=read_corpora, is_guarded=False),
    "run": Kind(
        files=("config.toml", "corpus.json", "metrics.jsonl"), read=read_run, is_guarded=False
    ),
    "config": Kind(
        files=("config.toml",), read=lambda run: resolve(file=run / "config.toml"), is_guarded=False
    ),
}


def mutated(raw: bytes, draw: random.Random) -> bytes:
    """`raw` with one to four small accidents, or with a part of it far longer."""
    out = bytearray(raw)
    for _ in range(draw.randint(1, 4)):
        place = draw.randrange(len(out)) if out else 0
        kind = draw.randrange(20)
        if kind < 6 and out:
            out[place] ^= 1 << draw.randrange(8)
        elif kind < 11:
            out[place:place] = draw.choice(_INSERTED)
        elif kind < 15:
            del out[place : place + draw.randint(1, 16)]
        elif kind < 17:
            out = out[:place]
        elif kind < 19 and out:
            end = place + draw.randint(1, 8)
            out[place:end] = draw.randbytes(end - place)
        else:
            out[place:place] = draw.choice([b"a", b"0", b"[", b" ", b"\n"]) * 100_000
    return bytes(out)


_INSERTED = (b"\0", b"9", b"-", b'"', b"[", b"}", b"1e999", b"\xff", b"NaN", b"\n", b"../", b"null")


def mutated_lines(raw: bytes, draw: random.Random) -> bytes:
    """JSON lines of which one is another one."""
    lines = raw.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    lines[place] = mutated_json(lines[place], draw) + b"\n"
    return b"".join(lines)


def mutated_json(raw: bytes, draw: random.Random) -> bytes:
    """A JSON text with one of its values, or a key, another one."""
    try:
        value = json.loads(raw)
    except ValueError:
        return mutated(raw, draw)
    places = list(_places(value))
    if not places:
        return mutated(raw, draw)
    inside, key = draw.choice(places)
    strange = copy.deepcopy(draw.choice([*_STRANGE, draw.choice(places)[0]]))
    kind = draw.randrange(3)
    if kind == 0 and isinstance(inside, dict):
        inside[str(draw.choice(_NAMES))] = inside.pop(key)
    elif kind == 1:
        del inside[key]
    else:
        inside[key] = strange
    return json.dumps(value).encode()


_STRANGE: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        -1,
        1,
        3,
        2**31,
        2**63,
        2**64,
        10**30,
        0.5,
        -0.0,
        1e308,
        float("nan"),
        "",
        "a",
    ),
    *(
        "../../x",
        "\x1b[2J",
        "\ud800",
        "a" * 10_000,
        [],
        {},
        [[]],
        [None],
        ["a", 1],
        {"": 0},
        {"a": []},
    ),
)
_NAMES = ("", "a", "type", "\x1b", "../x", "x" * 1000)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a JSON value: a list or an object, and the key in it."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def fuzz(kind: Kind, folder: Path, work: Path, draw: random.Random, number: int) -> None:
    """Read so many mutants of a folder; raises what is not as it must be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = kind.read(folder)
        files = sorted({path for pattern in kind.files for path in folder.glob(pattern)})
        assert files
        contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for _ in range(number):
            path = draw.choice(files)
            of_json = {".json": mutated_json, ".jsonl": mutated_lines}.get(path.suffix, mutated)
            broken = (of_json if draw.random() < 0.6 else mutated)(contents[path], draw)
            name = str(path.relative_to(folder))
            tried = {"file": name, "bytes": base64.b64encode(broken).decode()}
            (work / "tried.json").write_text(json.dumps(tried))
            path.write_bytes(broken)
            if kind.repair is not None:
                kind.repair(folder)
            signal.alarm(SECONDS)
            try:
                found = kind.read(folder)
                assert not kind.is_guarded or found == plain, f"{name} is read as something else"
            except BertsmithError as error:
                assert len(str(error).splitlines()) <= 1, f"{name}: {error}"
            finally:
                signal.alarm(0)
                put_back(folder, contents)


def put_back(folder: Path, contents: dict[Path, bytes]) -> None:
    """The folder as it was."""
    for path in folder.rglob("*"):
        if path.is_file() and path not in contents:
            path.unlink()
    for path, content in contents.items():
        if not path.is_file() or path.read_bytes() != content:
            path.write_bytes(content)


def bound_memory() -> None:
    """Let whatever takes more fail."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    """See the module."""
    source, name, seed, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    work = source.parent / f"{source.name}-{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    folder = Path(shutil.copytree(source, work / source.name))
    KINDS[name].read(folder)  # loads what is loaded on first use
    bound_memory()
    fuzz(KINDS[name], folder, work, random.Random(seed), number)
    shutil.rmtree(work)


if __name__ == "__main__":
    main()
