"""A program for the README.md of an export: onnxruntime and tokenizers, and nothing else."""

from __future__ import annotations

import json

from bertsmith.exporting.tasks import TaskName

_BEGINNING = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path("PATH")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation({max_length})
tokenizer.enable_padding(pad_id={pad_id}, pad_token={pad_token})
session = onnxruntime.InferenceSession(str(folder / "{file}"))
texts = {texts}
rows = tokenizer.encode_batch(texts)
grids = {{
    "input_ids": [row.ids for row in rows],
    "attention_mask": [row.attention_mask for row in rows],
    "token_type_ids": [row.type_ids for row in rows],
}}
names = [entry.name for entry in session.get_inputs()]
(found,) = session.run(None, {{name: np.array(grids[name], dtype=np.int64) for name in names}})
"""

_CLASSES = """\
classes = json.loads((folder / "config.json").read_text("utf-8"))["id2label"]
"""

_ENDINGS: dict[TaskName, str] = {
    "fill-mask": """\
for row, logits in zip(rows, found):
    for number in logits[row.ids.index({mask_id})].argsort()[::-1][:5]:
        print(tokenizer.id_to_token(int(number)))
""",
    "sentence-similarity": """\
print(found @ found.T)
""",
    "text-classification": """\
for text, logits in zip(texts, found):
    print(text, logits[0] if len(logits) == 1 else classes[str(logits.argmax())])
""",
    "token-classification": """\
for text, row, logits in zip(texts, rows, found):
    for (start, end), number in zip(row.offsets, logits.argmax(axis=1)):
        if end > start:
            print(text[start:end], classes[str(number)])
""",
}


def example(
    task: TaskName, file: str, max_length: int, pad: tuple[int, str], mask: tuple[int, str]
) -> str:
    """A program that runs an exported file.

    Args:
        task: of the model.
        file: the graph, in the folder.
        max_length: tokens that are read of a text.
        pad, mask: id and spelling of these special tokens.
    """
    words = f"a {mask[1]} ." if task == "fill-mask" else "a text"
    reads_classes = task in ("text-classification", "token-classification")
    beginning = _BEGINNING if reads_classes else _BEGINNING.removeprefix("import json\n")
    return beginning.format(
        max_length=max_length,
        pad_id=pad[0],
        pad_token=json.dumps(pad[1], ensure_ascii=False),
        file=file,
        texts=json.dumps([words, words.replace("a", "another", 1)], ensure_ascii=False),
    ) + (_CLASSES * reads_classes + _ENDINGS[task].replace("{mask_id}", str(mask[0])))
