"""The README.md of a model's folder, as the Hugging Face Hub reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

import bertsmith
from bertsmith.training.run import Run
from tests.support.labelled import FAST, rows_of, write
from tests.support.runs import TINY_RUN


def test_a_run_says_what_it_is(text_file: Path, tmp_path: Path) -> None:
    run = bertsmith.pretrain(
        text_file,
        output=tmp_path / "run",
        steps=4,
        checkpoint_every=2,
        language="en",
        license="cc-by-4.0",
        quiet=True,
        **TINY_RUN,
    )
    card = ModelCard.load(run.output / "model" / "README.md")
    data = card.data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert data["language"] == ["en"]
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "fill-mask")
    assert {"bertsmith", "bert"} <= set(data["tags"])
    text = card.text
    assert f"| MLM loss, nats | {run.metrics['validation_mlm_loss']:.3f} |" in text
    assert f"{run.metrics['tokens']:,} tokens" in text
    assert text_file.name in text
    assert str(tmp_path) not in card.content
    assert str(text_file.parent) not in card.content
    # Nothing in it is of the moment: the same run writes the same.
    again = bertsmith.pretrain(
        text_file,
        output=tmp_path / "again",
        steps=4,
        language="en",
        license="cc-by-4.0",
        quiet=True,
        **TINY_RUN,
    )
    assert (again.output / "model" / "README.md").read_text() == card.content


def test_a_fine_tuned_folder_says_what_it_is(finished_run: Run, tmp_path: Path) -> None:
    table = write(tmp_path / "t.tsv", rows_of(40))
    pairs = write(
        tmp_path / "p.tsv", [(a, f"{a} hills") for a, _ in rows_of(20)], header="question\tanswer"
    )
    words = tmp_path / "w.tsv"
    words.write_text("a\tO\nbird\tB-animal\n\n" * 9)
    cases: list[tuple[str, Path, str, str]] = [
        ("auto", table, "transformers", "text-classification"),
        ("tokens", words, "transformers", "token-classification"),
        ("similarity", pairs, "sentence-transformers", "sentence-similarity"),
    ]
    for task, file, library, kind in cases:
        settings: dict[str, Any] = {**FAST, "epochs": 1, "task": task}
        found = bertsmith.finetune(
            finished_run.output,
            train=file,
            validation=file,
            output=tmp_path / task,
            license="mit",
            quiet=True,
            **settings,
        )
        card = ModelCard.load(found.output / "README.md")
        data = card.data.to_dict()
        assert (data["library_name"], data["pipeline_tag"]) == (library, kind)
        assert data["license"] == "mit"
        assert "the same from random weights" in card.text
        assert str(tmp_path) not in card.content
        name = found.results["metric"]
        assert f"| {name} | {found.results['pretrained'][name]['mean']:.3f} |" in card.text
