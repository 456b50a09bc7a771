"""Small things that many tests share: a text, its tokenizer and store, a model, a finished run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from bertsmith.architectures.bert.network import Bert
from bertsmith.config import BertConfig
from bertsmith.corpus import Document
from bertsmith.data.store import TokenStore, build_store
from bertsmith.saved.hugging_face import Snapshot
from bertsmith.tokenizer import Tokenizer, train
from bertsmith.training.run import Run

# Before its modules are imported: an assert there shows its values as one in a test does.
pytest.register_assert_rewrite("tests.support")

from tests.support import kernels  # noqa: E402
from tests.support.runs import TINY_RUN, blank  # noqa: E402
from tests.support.texts import SPACED, make_documents, write_text  # noqa: E402

# A shell that begins the tests in the background has them, and all they start, ignore SIGINT.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The first example also loads libraries, and other work may slow any: no limit of time.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def documents() -> list[Document]:
    return make_documents()


@pytest.fixture(scope="session")
def tokenizer(documents: list[Document]) -> Tokenizer:
    return train(documents, kind="word", spelling=SPACED, min_frequency=2, max_length=32)


@pytest.fixture(scope="session")
def store(documents: list[Document], tokenizer: Tokenizer) -> TokenStore:
    return build_store(documents, tokenizer)[0]


@pytest.fixture
def tiny_config() -> BertConfig:
    return BertConfig(
        num_hidden_layers=2,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        max_position_embeddings=40,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


@pytest.fixture
def tiny_model(tiny_config: BertConfig, tokenizer: Tokenizer) -> Bert:
    """Weights far from their small initial values, so that an error in any part shows."""
    model = Bert(tiny_config, tokenizer.vocab_size)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


@pytest.fixture
def folder(tiny_model: Bert, tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A Hugging Face folder of `tiny_model`."""
    path = tmp_path / "model"
    path.mkdir()
    Snapshot.of(tiny_model, tokenizer).write(path)
    return path


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> Path:
    return write_text(tmp_path_factory.mktemp("corpus") / "text.txt", documents)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Prepared texts are not kept for the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BERTSMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares each run what it does after training; the finished run of the session has all."""
    monkeypatch.setattr("bertsmith.training.closing.matrix_product_rate", lambda *_, **__: 1e11)
    monkeypatch.setattr("bertsmith.reporting.curves.draw_curves", blank)


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Run:
    """A run of 8 steps on the text file."""
    import bertsmith

    output = tmp_path_factory.mktemp("runs") / "tiny"
    return bertsmith.pretrain(
        text_file, output=output, steps=8, checkpoint_every=3, quiet=True, **TINY_RUN
    )


def _find_shared_data() -> Path | None:
    named = os.environ.get("BERTSMITH_SHARED_DATA")
    beside = Path(__file__).parents[2] / "shared" / "data"
    return next((p for p in (Path(named) if named else beside, beside) if p.is_dir()), None)


@pytest.fixture(scope="session")
def wikitext() -> Path:
    """The folder of WikiText-2, where the machine has it."""
    folder = _find_shared_data()
    if folder is None or not (folder / "wikitext-2" / "wiki.train.tokens").is_file():
        pytest.skip(
            "no WikiText-2: put shared/data beside the repository or set BERTSMITH_SHARED_DATA"
        )
    return folder / "wikitext-2"


@pytest.fixture
def flash_on_cpu() -> Iterator[list[str]]:
    """Attention goes the way of CUDA's kernel; see `kernels.flash_on_cpu`."""
    with kernels.flash_on_cpu() as called:
        yield called
