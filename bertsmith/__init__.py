"""Bertsmith: pretrain BERT encoders from scratch on your own text.

import bertsmith
run = bertsmith.pretrain("wikitext-2", preset="textbook", output="runs/first")
model = bertsmith.load("runs/first")
model.encode("a crane is flying").tokens        # float32 [6, 128]
"""

from bertsmith.api import evaluate, finetune, load, prepare, pretrain, probe
from bertsmith.errors import BertsmithError

__version__ = "0.1.0"

__all__ = [
    "BertsmithError",
    "__version__",
    "evaluate",
    "finetune",
    "load",
    "prepare",
    "pretrain",
    "probe",
]
