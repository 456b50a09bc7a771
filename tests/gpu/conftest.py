"""The device that the tests of this folder run on, and what they measured, said at the end.

With BERTSMITH_TEST_DEVICE=cpu the same bodies run without a GPU: what is then left untested is
CUDA's kernels alone.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bertsmith.corpus import Document
from bertsmith.data.store import TokenStore, build_store
from bertsmith.tokenizer import Tokenizer, train
from tests.support.gpu import Finding
from tests.support.texts import SPACED, make_documents, write_text

_FINDINGS = pytest.StashKey[list[str]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    found = config.stash.get(_FINDINGS, [])
    if found:
        terminalreporter.section("measured")
        for line in found:
            terminalreporter.write_line(line)


@pytest.fixture
def finding(request: pytest.FixtureRequest) -> Finding:
    """Notes a line that is printed after all tests, whether this one passes or not."""
    lines = request.config.stash.setdefault(_FINDINGS, [])
    return lambda what: lines.append(f"{request.node.name}: {what}")


@pytest.fixture(scope="session")
def device() -> torch.device:
    kind = os.environ.get("BERTSMITH_TEST_DEVICE", "cuda")
    if kind == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    return torch.device(kind)


@pytest.fixture(autouse=True)
def _on_the_device(device: torch.device) -> Iterator[None]:
    """Every test here asks for the device; memory of one is not kept from the next."""
    yield
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def long_documents() -> list[Document]:
    """Documents of several hundred words, which fill sequences of 256 tokens."""
    short = make_documents(240, seed=5)
    return [
        list(itertools.chain.from_iterable(short[first : first + 8]))
        for first in range(0, len(short), 8)
    ]


@pytest.fixture(scope="session")
def long_tokenizer() -> Tokenizer:
    return train(long_documents(), kind="word", spelling=SPACED, min_frequency=2, max_length=256)


@pytest.fixture(scope="session")
def long_store(long_tokenizer: Tokenizer) -> TokenStore:
    return build_store(long_documents(), long_tokenizer)[0]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("corpus") / "long.txt", long_documents())
