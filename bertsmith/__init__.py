"""Bertsmith: pretrain BERT encoders from scratch on your own text.

import bertsmith
run = bertsmith.pretrain("wikitext-2", preset="textbook", output="runs/first")
model = bertsmith.load("runs/first")
model.encode("a crane is flying").tokens        # float32 [6, 128]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bertsmith.api import (
    branch,
    corpora,
    estimate,
    evaluate,
    evaluate_minimal_pairs,
    evaluate_vectors,
    export,
    finetune,
    load,
    playground,
    prepare,
    pretrain,
    probe,
    report,
    save,
    search,
    similar,
    tag,
)
from bertsmith.config import (
    BertConfig,
    DataConfig,
    FinetuneConfig,
    FinetuneSettings,
    LabelledConfig,
    LabelledSettings,
    ModelConfig,
    ModernBertConfig,
    PairColumns,
    PreparationConfig,
    PreparationSettings,
    PretrainSettings,
    ProbeConfig,
    ProbeSettings,
    SimilarityConfig,
    TrainingConfig,
)
from bertsmith.errors import (
    BertsmithError,
    ConfigError,
    CorpusError,
    DataError,
    DeviceError,
    DivergenceError,
    DownloadError,
    InputError,
    MissingExtraError,
    ModelError,
    RunError,
    RunStopped,
    TokenizerError,
)

if TYPE_CHECKING:
    from bertsmith.architectures import Encoder
    from bertsmith.corpus.minimal_pairs import MinimalPair
    from bertsmith.evaluation.held_out import Evaluation
    from bertsmith.evaluation.minimal_pairs import MinimalPairEvaluation, PairFigures
    from bertsmith.evaluation.pseudo import PseudoPerplexity
    from bertsmith.evaluation.tally import Bin
    from bertsmith.exporting import Exported
    from bertsmith.finetuning.finetune import Finetuned
    from bertsmith.inference.model import Candidate, Encoding, PretrainedModel
    from bertsmith.inference.similar import Place, Ranked
    from bertsmith.inference.tags import TaggedSpan, Tagger
    from bertsmith.tokenizer import Tokenizer
    from bertsmith.training.estimate import Estimate, Memory
    from bertsmith.training.observers import Observer
    from bertsmith.training.run import Run
    from bertsmith.vectors.encoder import TextEncoder
    from bertsmith.vectors.evaluate import VectorEvaluation
    from bertsmith.vectors.search import Hit

__version__ = "0.1.0"

_RESULTS = {
    "Bin": "evaluation.tally",
    "Candidate": "inference.model",
    "Encoder": "architectures",
    "Encoding": "inference.model",
    "Estimate": "training.estimate",
    "Exported": "exporting",
    "Evaluation": "evaluation.held_out",
    "Finetuned": "finetuning.finetune",
    "Hit": "vectors.search",
    "Memory": "training.estimate",
    "MinimalPair": "corpus.minimal_pairs",
    "MinimalPairEvaluation": "evaluation.minimal_pairs",
    "Observer": "training.observers",
    "PairFigures": "evaluation.minimal_pairs",
    "Place": "inference.similar",
    "PretrainedModel": "inference.model",
    "PseudoPerplexity": "evaluation.pseudo",
    "Ranked": "inference.similar",
    "Run": "training.pretrain",
    "TaggedSpan": "inference.tags",
    "Tagger": "inference.tags",
    "TextEncoder": "vectors.encoder",
    "Tokenizer": "tokenizer",
    "VectorEvaluation": "vectors.evaluate",
}
"""What functions return; imported when it is asked for, since its modules load torch."""

__all__ = [
    "BertConfig",
    "BertsmithError",
    "Bin",
    "Candidate",
    "ConfigError",
    "CorpusError",
    "DataConfig",
    "DataError",
    "DeviceError",
    "DivergenceError",
    "DownloadError",
    "Encoder",
    "Encoding",
    "Estimate",
    "Evaluation",
    "Exported",
    "FinetuneConfig",
    "FinetuneSettings",
    "Finetuned",
    "Hit",
    "InputError",
    "LabelledConfig",
    "LabelledSettings",
    "Memory",
    "MinimalPair",
    "MinimalPairEvaluation",
    "MissingExtraError",
    "ModelConfig",
    "ModelError",
    "ModernBertConfig",
    "Observer",
    "PairColumns",
    "PairFigures",
    "Place",
    "PreparationConfig",
    "PreparationSettings",
    "PretrainSettings",
    "PretrainedModel",
    "ProbeConfig",
    "ProbeSettings",
    "PseudoPerplexity",
    "Ranked",
    "Run",
    "RunError",
    "RunStopped",
    "SimilarityConfig",
    "TaggedSpan",
    "Tagger",
    "TextEncoder",
    "Tokenizer",
    "TokenizerError",
    "TrainingConfig",
    "VectorEvaluation",
    "__version__",
    "branch",
    "corpora",
    "estimate",
    "evaluate",
    "evaluate_minimal_pairs",
    "evaluate_vectors",
    "export",
    "finetune",
    "load",
    "playground",
    "prepare",
    "pretrain",
    "probe",
    "report",
    "save",
    "search",
    "similar",
    "tag",
]


if not TYPE_CHECKING:  # to a type checker it would mean that any name is there

    def __getattr__(name: str) -> Any:
        if name not in _RESULTS:
            raise AttributeError(f"module 'bertsmith' has no attribute {name!r}")
        return getattr(import_module(f"bertsmith.{_RESULTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
