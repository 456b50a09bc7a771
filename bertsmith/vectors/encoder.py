"""A vector of each text, as the folder of a model says it is made.

Legend: N = texts; H = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bertsmith.architectures import Encoder
from bertsmith.errors import InputError
from bertsmith.hardware.device import choose_device, settled_precision
from bertsmith.objectives.rows import sequence_vectors
from bertsmith.rows import over_rows, tokenize, with_length_1
from bertsmith.saved.hugging_face import load_model
from bertsmith.saved.locate import read_newest
from bertsmith.saved.sentence_transformers import Pooling, read_max_length, read_pooling
from bertsmith.tokenizer import Tokenizer
from bertsmith.tokenizer.texts import refuse_no_text, warn

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """Vectors of texts, as sentence-transformers makes them of the same folder.

    Args:
        model: in evaluation mode, on `device`.
        tokenizer: its own.
        pooling: from tokens to a text.
        device: where.
        precision: of the matrix products.
        folder: the model's.
    """

    model: Encoder
    tokenizer: Tokenizer
    pooling: Pooling
    device: torch.device
    precision: str
    folder: Path

    @staticmethod
    def load(path: str | Path, *, device: str = "auto", precision: str = "float32") -> TextEncoder:
        """The encoder of a fine-tuned folder, or of any model that `bertsmith.load` takes.

        A folder that does not say how vectors are made gets means of length 1, and that is said.

        Raises:
            ModelError, TokenizerError, DeviceError: as `bertsmith.load`.
        """
        where = choose_device(device)
        folder, found = read_newest(Path(path), lambda folder: (folder, load_model(folder)))
        pooling, longest = read_pooling(folder), read_max_length(folder)
        tokenizer = found.tokenizer
        tokenizer.max_length = min(tokenizer.max_length, longest or tokenizer.max_length)
        if pooling is None:
            warn(
                f"{path} was not trained for vectors of texts: means of its tokens' vectors, which "
                "rank texts badly, are taken; `bertsmith finetune --task similarity` trains them."
            )
        return TextEncoder(
            model=found.model.to(where),
            tokenizer=tokenizer,
            pooling=pooling or Pooling(),
            device=where,
            precision=settled_precision(where, precision),
            folder=folder,
        )

    @property
    def size(self) -> int:
        """H."""
        return self.model.config.hidden_size

    def encode(
        self,
        texts: Sequence[str],
        *,
        source: str = "",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Float32:
        """A vector of each text, in their order: float32 [N, H].

        Args:
            texts: N; those that are longer than the model was trained on are cut, and that is said.
            source: what they are of, as warnings say it.
            progress: told the texts done and in all.
        """
        if isinstance(texts, str):
            raise InputError("Texts must be a list; got one text. Give [text].")
        for text in texts:
            refuse_no_text(text)
        if not texts:
            return np.empty((0, self.size), dtype=np.float32)
        rows, _ = tokenize([(text, None) for text in texts], self.tokenizer, source=source)
        of_all = self.pooling.mode == "mean"
        vectors = over_rows(
            lambda batch: sequence_vectors(self.model, batch, of_all=of_all),
            rows,
            self.size,
            self.device,
            precision=self.precision,
            progress=progress,
        )
        return with_length_1(vectors) if self.pooling.normalize else vectors
