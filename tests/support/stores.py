"""Stores and batches: what makes them, what they hold, and what may happen to their files."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bertsmith.config import DataConfig, PreparationConfig
from bertsmith.data.batches import Batches
from bertsmith.data.manifest import FREQUENCIES_FILE, MANIFEST_FILE
from bertsmith.data.pairs import make_drawing
from bertsmith.data.shards import tokenizer_digest
from bertsmith.data.store import TokenStore, digest_of_shards
from bertsmith.tokenizer import Tokenizer


def make_batches(store: TokenStore, tokenizer: Tokenizer, **options: object) -> Batches:
    usual = {"seed": 0, "batch_size": 16, "rank": 0, "num_ranks": 1}
    seed, batch_size, rank, num_ranks = (int(str(options.pop(n, d))) for n, d in usual.items())
    data = DataConfig(**{"max_length": 32, **options})  # type: ignore[arg-type]
    return Batches(
        store,
        make_drawing(store, data, seed=seed),
        tokenizer,
        batch_size=batch_size,
        max_length=data.max_length,
        mlm_probability=0.15,
        masking=data.masking,
        seed=seed,
        rank=rank,
        num_ranks=num_ranks,
    )


def config(corpus: Path | str, **settings: Any) -> PreparationConfig:
    settings = {"min_frequency": 1, "vocab_size": 400, **settings}
    return PreparationConfig(corpus=(str(corpus),), **settings)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a store, but for its lock."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def put(content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_bytes(content(path.read_bytes()))

    return change


def flipped(raw: bytes) -> bytes:
    """One bit, in the middle."""
    middle = len(raw) // 2
    return raw[:middle] + bytes([raw[middle] ^ 1]) + raw[middle + 1 :]


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


ACCIDENTS: dict[str, Callable[[Path], None]] = {
    "missing": Path.unlink,
    "empty": put(lambda raw: b""),
    "cut off": put(lambda raw: raw[:-8]),
    "flipped": put(flipped),
    "longer": put(lambda raw: raw + b"\0"),
    "of another store": put(lambda raw: b"x" * len(raw)),
    "a folder": instead(Path.mkdir),
    "a pipe": instead(os.mkfifo),
    "a device": instead(lambda path: path.symlink_to("/dev/zero")),
    "a link to itself": instead(lambda path: path.symlink_to(path)),
}


def sign(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as somebody who makes its checksums right again."""
    manifest = json.loads((path / MANIFEST_FILE).read_text())
    for name, split in manifest["splits"].items():
        for shard in split["shards"]:
            raw = (path / shard["file"]).read_bytes()
            shard |= {"sha256": hashlib.sha256(raw).hexdigest(), "bytes": len(raw)}
        counts = (path / name / FREQUENCIES_FILE).read_bytes()
        split["frequencies_sha256"] = hashlib.sha256(counts).hexdigest()
        digest = digest_of_shards(shard["sha256"] for shard in split["shards"])
        manifest["report"]["sha256"][name] = digest
    manifest["tokenizer_sha256"] = tokenizer_digest(path / "tokenizer")
    manifest["manifest_sha256"] = ""
    change(manifest)
    raw = json.dumps(manifest).encode()
    own = f'"manifest_sha256": "{hashlib.sha256(raw).hexdigest()}"'.encode()
    (path / MANIFEST_FILE).write_bytes(raw.replace(b'"manifest_sha256": ""', own))
