"""The Python interface: what `import bertsmith` gives."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

from bertsmith.config import (
    FinetuneConfig,
    FinetuneSettings,
    LabelledConfig,
    LabelledSettings,
    PairColumns,
    PreparationSettings,
    PretrainSettings,
    ProbeConfig,
    ProbeSettings,
    SimilarityConfig,
    nearest,
)
from bertsmith.display import Display, show
from bertsmith.errors import ConfigError, InputError, printable

if TYPE_CHECKING:
    from bertsmith.architectures import Encoder
    from bertsmith.evaluation.held_out import Evaluation
    from bertsmith.evaluation.minimal_pairs import MinimalPairEvaluation
    from bertsmith.exporting import Exported
    from bertsmith.finetuning.finetune import Finetuned
    from bertsmith.inference.model import PretrainedModel
    from bertsmith.inference.similar import Ranked
    from bertsmith.inference.tags import TaggedSpan
    from bertsmith.tokenizer import Tokenizer
    from bertsmith.training.estimate import Estimate
    from bertsmith.training.observers import Observer
    from bertsmith.training.run import Run
    from bertsmith.vectors.evaluate import VectorEvaluation
    from bertsmith.vectors.search import Hit

# What does the work is imported inside the functions: torch takes seconds to load, and
# `import bertsmith` or `bertsmith --help` should not wait for it.


def pretrain(
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    preset: str | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    profile: bool = False,
    callbacks: Sequence[Observer] = (),
    **settings: Unpack[PretrainSettings],
) -> Run:
    """Pretrain an encoder on a text; gives the finished run.

    At a Python prompt or in a notebook the closing figures are printed.

    Args:
        corpus: a name, a path, or several of either; default: the config's, else wikitext-2.
        preset: textbook, tiny, mini, small, medium, base or large; default: textbook.
        recipe: default or chapter.
        config: a TOML file of settings, such as another run's config.toml.
        output: the run's folder; default: a fresh one under `runs/`.
        overwrite: replace a run that is in `output`.
        resume: go on with the run in `output`, by its settings; begin one if there is none.
        quiet: show no progress, and no closing figures.
        profile: measure where a step's time goes; on a GPU this slows it.
        callbacks: observers of your own, told of steps, evaluations and checkpoints.
        settings: fields of `PreparationConfig`, `DataConfig`, `ModelConfig`, `TrainingConfig`.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
        RunStopped: a signal (an interrupt, SIGTERM, SIGUSR1) came; a checkpoint is written.
    """
    from bertsmith.training.pretrain import run_pretraining
    from bertsmith.training.settings import Layers

    asked, folder = _by_name(corpus, settings), None if output is None else Path(output)
    layers = Layers.of(
        preset=preset,
        recipe=recipe,
        config=config,
        corpus=asked.get("corpus", ()),
        init_from=asked.get("init_from"),
        output=folder,
        resume=resume,
    )
    run = run_pretraining(
        layers.resolve(asked),
        output=folder,
        overwrite=overwrite,
        resume=resume,
        quiet=quiet,
        profile=profile,
        callbacks=callbacks,
    )
    if not quiet and _is_interactive():
        show(closing_text(run))
    return run


def save(
    model: Encoder | PretrainedModel,
    tokenizer: Tokenizer,
    folder: str | Path,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a network and its tokenizer as a Hugging Face folder, which `load` takes again.

    Args:
        model: a network of an architecture, all heads of which are written; or what `load` gives,
            without heads that its folder had no weights for.
        tokenizer: its own.
        folder: the folder to make.
        overwrite: replace an earlier such folder.

    Returns:
        `folder`.

    Raises:
        RunError: there is something else in its place.
    """
    from bertsmith.inference.model import PretrainedModel
    from bertsmith.saved.hugging_face import Snapshot, write_model

    encoder = model.with_trained_heads() if isinstance(model, PretrainedModel) else model
    write_model(Snapshot.of(encoder, tokenizer), Path(folder), overwrite=overwrite)
    return Path(folder)


def branch(path: str | Path, output: str | Path) -> int:
    """Make a second run from a checkpoint; `pretrain(output=…, resume=True)` goes on with it.

    Args:
        path: a checkpoint of a run, or a run: its newest one. It stays as it is.
        output: the new run's folder, which is not there yet, or is empty.

    Returns:
        The steps that the checkpoint has behind it.

    Raises:
        RunError: `path` is no checkpoint, or is damaged; `output` cannot be made.
    """
    from bertsmith.training.branch import branch as branch_off

    return branch_off(Path(path), Path(output))


def _is_interactive() -> bool:
    return hasattr(sys, "ps1")  # the text of Python's prompt; a notebook has it, too


def closing_text(run: Run) -> str:
    """What is printed of a finished run: its figures, and where its files are."""
    # Not in the figures of a run that an older version finished.
    longest = run.metrics.get("max_length")
    reads = "" if longest is None else f" (reads {longest} tokens of a text; --max-length)"
    output = printable(str(run.output))
    lines = [*run.closing_lines(), f"model:   {output}/model{reads}"]
    if (run.output / "curves.png").exists():
        lines.append(f"curves:  {output}/curves.png")
    return "\n".join([*lines, f"metrics: {output}/metrics.jsonl"])


def estimate(
    corpus: str | Path | Sequence[str | Path] | None = None,
    *,
    preset: str | None = None,
    recipe: str | None = None,
    config: str | Path | None = None,
    devices: int = 1,
    device_memory: int | str | None = None,
    flops_per_second: float | None = None,
    **settings: Unpack[PretrainSettings],
) -> Estimate:
    """Say what a training would take: parameters, arithmetic, memory by part, messages, time.

    Args:
        corpus, preset, recipe, config: as in `pretrain`; the text is not read.
        devices: GPUs (or processes) that share the work.
        device_memory: of each, in bytes or as "80GB"; default: what this machine has.
        flops_per_second: FLOP/s that each sustains in training; default: measured on this machine,
            for some seconds, if `device_memory` is not given.
        settings: as in `pretrain`; `vocab_size` is taken for the size of the vocabulary.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.training.estimate import Machine, config_of
    from bertsmith.training.estimate import estimate as counted
    from bertsmith.training.settings import Layers

    asked = _by_name(corpus, settings)
    layers = Layers.of(
        preset=preset,
        recipe=recipe,
        config=config,
        corpus=asked.get("corpus", ()),
        init_from=asked.get("init_from"),
    )
    settled = config_of(layers, asked)
    machine = Machine.of(
        settled.training.device,
        devices=devices,
        memory=device_memory,
        flops_per_second=flops_per_second,
    )
    return counted(settled, machine)


def prepare(
    corpus: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    processes: int | None = None,
    engine: Literal["local", "ray"] = "local",
    overwrite: bool = False,
    quiet: bool = False,
    **settings: Unpack[PreparationSettings],
) -> Path:
    """Turn a text into a token store that any number of runs train on.

    Args:
        corpus: as in `pretrain`.
        output: the store's folder, which `pretrain` takes for a corpus.
        preset: whose kind of vocabulary; default: textbook, of words.
        config: a TOML file of settings.
        processes: of this machine; default: one a processor.
        engine: processes of this machine, or a Ray cluster.
        overwrite: replace a store that is in `output`.
        quiet: show no progress.
        settings: any field of `PreparationConfig`, by name.

    Returns:
        The store's folder.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.preparation import prepare_store
    from bertsmith.training.settings import Layers

    asked = _by_name(corpus, settings)
    layers = Layers.of(preset=preset, config=config, corpus=asked["corpus"])
    return prepare_store(
        layers.resolve(asked).preparation,
        Path(output),
        overwrite=overwrite,
        engine=engine,
        processes=processes,
        display=Display(quiet=quiet),
    ).path


def load(
    path: str | Path,
    *,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> PretrainedModel:
    """A trained model: of a run, one of its checkpoints, a Hugging Face folder, or hf:owner/name.

    Args:
        path: where it lies.
        device: auto, cpu, cuda or mps.
        precision: of matrix products. Where the processor has bfloat16, many texts are encoded 1.2
            (`tiny`) to 2.2 (`small`) times as fast with it, to vectors near those of float32;
            auto takes it there.

    Raises:
        BertsmithError: there is no whole model, or the device is not on this machine.
    """
    from bertsmith.inference.model import load as load_model

    return load_model(path, device=device, precision=precision)


def evaluate(
    path: str | Path,
    *,
    corpus: str | Path | Sequence[str | Path] | None = None,
    split: str = "validation",
    num_sentences: int = 0,
    objective: str | None = None,
    pairing: Literal["adjacent", "filled"] | None = None,
    max_length: int | None = None,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> Evaluation:
    """Losses and accuracies of a trained model on held-out pairs with fixed masks of 15 %.

    Args:
        path: as in `load`.
        corpus: as in `pretrain`; default: the one the run was trained on.
        split: train, validation or test.
        num_sentences: whose pseudo-perplexity is taken as well; 0: none.
        objective, pairing, max_length: of the examples; default: as in the run's training. Models
            with one tokenizer meet the same masks if these are the same.
        device: auto, cpu, cuda or mps.
        precision: as in `load`.

    Raises:
        BertsmithError: there is no such model, corpus or split.
    """
    from bertsmith.evaluation.of_folder import evaluate_folder

    parts = (corpus,) if isinstance(corpus, str | Path) else corpus
    names = None if parts is None else [str(part) for part in parts]
    return evaluate_folder(
        Path(path),
        corpus=names,
        split=split,
        num_sentences=num_sentences,
        objective=objective,
        pairing=pairing,
        max_length=max_length,
        device=device,
        precision=precision,
    )


def evaluate_vectors(
    path: str | Path,
    *,
    similarity: str | Path | None = None,
    retrieval: str | Path | None = None,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    **columns: Unpack[LabelledSettings],
) -> VectorEvaluation:
    """How good the vectors of texts are, beside BM25, random weights and the time before training.

    Args:
        path: a folder that was fine-tuned for similarity, or as in `load`.
        similarity: a table of sentence pairs with scores.
        retrieval: a folder of queries, documents and judgements as TREC or BEIR have them, or a
            table of queries and their documents.
        device: auto, cpu, cuda or mps.
        precision: as in `load`.
        columns: any field of `LabelledConfig`, by name.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.vectors.evaluate import evaluate_retrieval, evaluate_similarity

    if (similarity is None) == (retrieval is None):
        raise InputError("Vectors are judged by `similarity` or `retrieval`; give one of the two.")
    (labelled,) = _parted(columns, LabelledConfig)
    how: dict[str, Any] = {"labelled": labelled, "device": device, "precision": precision}
    if similarity is not None:
        return evaluate_similarity(Path(path), Path(similarity), **how)
    assert retrieval is not None
    return evaluate_retrieval(Path(path), Path(retrieval), **how)


def evaluate_minimal_pairs(
    path: str | Path,
    pairs: str | Path,
    *,
    pll_metric: Literal["within_word_l2r", "original"] = "within_word_l2r",
    per_token: bool = False,
    columns: PairColumns | None = None,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> MinimalPairEvaluation:
    """How often the grammatical sentence of a minimal pair is the likelier one.

    Args:
        path: as in `load`.
        pairs: a table of pairs, or a folder of such, as BLiMP's.
        pll_metric: within_word_l2r scores a token with the tokens of its word that follow it masked
            as well (Kauf and Ivanova 2023), original with itself alone masked (Salazar et al.
            2020).
        per_token: compare means over the tokens of a sentence, not sums.
        columns: names of the table's columns; default: those of BLiMP.
        device: auto, cpu, cuda or mps.
        precision: as in `load`.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.evaluation.minimal_pairs import evaluate_minimal_pairs as of_folder

    return of_folder(
        Path(path),
        Path(pairs),
        columns=columns,
        pll_metric=pll_metric,
        per_token=per_token,
        device=device,
        precision=precision,
    )


def search(
    path: str | Path,
    documents: str | Path,
    questions: str | Sequence[str],
    *,
    top_k: int = 10,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
    **columns: Unpack[LabelledSettings],
) -> list[list[Hit]]:
    """The rows of a file that are nearest to each question, by vectors; exact.

    Args:
        path: a folder that was fine-tuned for similarity, or as in `load`.
        documents: a table, or a text, line by line. Its vectors are kept in the cache.
        questions: one or several.
        top_k: rows for each.
        device: auto, cpu, cuda or mps.
        precision: as in `load`.
        columns: any field of `LabelledConfig`, by name.

    Returns:
        For each question its rows: `line`, `cosine` and `text`, the nearest first.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.vectors.encoder import TextEncoder
    from bertsmith.vectors.search import Documents
    from bertsmith.vectors.search import search as nearest_rows

    (labelled,) = _parted(columns, LabelledConfig)
    asked = [questions] if isinstance(questions, str) else list(questions)
    rows = Documents.read(Path(documents), labelled)
    encoder = TextEncoder.load(path, device=device, precision=precision)
    return nearest_rows(encoder, rows, asked, top_k=top_k)


def tag(
    path: str | Path,
    texts: str | Sequence[str],
    *,
    device: str = "auto",
    precision: Literal["float32", "bfloat16", "auto"] = "float32",
) -> list[list[TaggedSpan]]:
    """The spans of texts that a model was fine-tuned to tag.

    Args:
        path: a folder of `finetune` with `task` "tokens", or one of such a model as transformers
            writes it.
        texts: one or several; long ones are read in windows that overlap.
        device: auto, cpu, cuda or mps.
        precision: as in `load`.

    Returns:
        Of each text its spans, in their order: `kind`, `text`, `start` and `end` in characters, and
        `score`, the mean probability of the tags of its words.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.inference.tags import Tagger

    asked = [texts] if isinstance(texts, str) else list(texts)
    return Tagger.load(path, device=device, precision=precision).tag(asked)


def similar(
    path: str | Path,
    word: str,
    text: str | Path | Iterable[str],
    *,
    to: str | None = None,
    place: int = 1,
    device: str = "auto",
    quiet: bool = False,
) -> Ranked:
    """Rank the places where a word stands in a text by the nearness of its vectors.

    Args:
        path: as in `load`.
        word: as it is written; upper case counts if it does for the model.
        text: a file, or its lines.
        to: a text with the word, to whose place there the others are compared.
        place: without `to`, which of the places the others are compared to, from 1.
        device: auto, cpu, cuda or mps.
        quiet: show no progress.

    Returns:
        `reference`, the place compared to, and `others`: each place with the cosine of both
        vectors, the nearest first.

    Raises:
        BertsmithError: there is no such model or file; the word does not stand there, or is
            unknown to the model.
    """
    from bertsmith.corpus.lines import read_lines
    from bertsmith.inference.model import load as load_model
    from bertsmith.inference.similar import similar_places
    from bertsmith.tokenizer.texts import refuse_no_text

    for given in filter(None, (word, to)):
        refuse_no_text(given)
    model = load_model(path, device=device)
    lines = read_lines(Path(text)) if isinstance(text, str | Path) else text
    with Display(quiet=quiet).stage(f"Looking for {word!r}") as progress:
        return similar_places(model, word, lines, to=to, place=place, progress=progress)


def corpora() -> dict[str, dict[str, Any]]:
    """The corpora known by name, and what of them is on disk.

    Returns:
        By name `about` and `on_disk`, a path or ""; under "prepared" the texts that runs were
        trained on: `on_disk`, their number `stores`, and their size `bytes`.
    """
    from bertsmith.corpus import NAMES
    from bertsmith.corpus.cache import cache_folder, cached_wikitext, prepared_stores

    where = {"wikitext-2": cached_wikitext(), "python-docs": "in this Python"}
    num_stores, size = prepared_stores()
    found: dict[str, dict[str, Any]] = {
        name: {"about": NAMES[name], "on_disk": str(where[name] or "")} for name in NAMES
    }
    folder = str(cache_folder() / "stores")
    found["prepared"] = {"on_disk": folder, "stores": num_stores, "bytes": size}
    return found


def finetune(
    path: str | Path,
    *,
    train: str | Path | None = None,
    validation: str | Path | None = None,
    output: str | Path,
    test: str | Path | None = None,
    baseline: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    quiet: bool = False,
    **settings: Unpack[FinetuneSettings],
) -> Finetuned:
    """Train a classifier or regressor on a pretrained encoder, or the vectors of texts.

    Args:
        path: as in `load`.
        train, validation: tables of labelled texts: .tsv, .csv, .jsonl, .json or .parquet. For
            `task` "similarity" of texts that belong together (question and answer, a score beside
            them or not), or None: neighbouring sentences of the run's own text.
        output: the folder to make, a Hugging Face model with a sequence classifier; for similarity
            one that sentence-transformers loads.
        test: a table of texts to predict.
        baseline: whether the same is done from random weights.
        overwrite: replace an earlier fine-tuning in `output`, or one that was not finished.
        resume: go on with one that was not finished; begin one if there is none.
        quiet: show no progress.
        settings: any field of `FinetuneConfig`, `LabelledConfig` and `SimilarityConfig`, by name.

    Returns:
        `output` and `results`: of each metric mean, deviation and values over the seeds.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.finetuning.finetune import finetune_folder

    labelled, config, similarity = _parted(
        settings, LabelledConfig, FinetuneConfig, SimilarityConfig
    )
    return finetune_folder(
        Path(path),
        train=None if train is None else Path(train),
        validation=None if validation is None else Path(validation),
        test=None if test is None else Path(test),
        output=Path(output),
        labelled=labelled,
        config=config,
        similarity=similarity,
        baseline=baseline,
        overwrite=overwrite,
        resume=resume,
        display=Display(quiet=quiet),
    )


def export(
    path: str | Path,
    *,
    output: str | Path,
    format: Literal["onnx"] = "onnx",
    quantize: Literal["int8"] | None = None,
    opset: int = 18,
    validation: str | Path | None = None,
    license: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> Exported:
    """Write a model as a graph that onnxruntime runs, without PyTorch, for what it was trained for.

    A pretrained model fills masks; a fine-tuned one gives classes, scores, tags, or vectors of
    texts (pooling is in the graph). The graph takes any batch size and length, and is held against
    the model before anything is written.

    Args:
        path: as in `load`, or a fine-tuned folder.
        output: the folder to make: the graph, the tokenizer, a README.md with a program that runs
            it.
        format: onnx.
        quantize: "int8": 8-bit weights, about a quarter of the size; what they cost is measured on
            the model's own validation text and is in the report.
        opset: of ONNX's operators, 18 to 23.
        validation: a table for that; default: the one of the fine-tuning, if it is still there.
        license: for the README.md; default: that of the model's own.
        overwrite: replace an earlier export in `output`.
        quiet: show no progress.

    Returns:
        `output`, `file` and `report`.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.exporting import export_folder

    if format != "onnx":
        raise ConfigError(f"`format` must be onnx; got {format!r}.")
    return export_folder(
        Path(path),
        output=Path(output),
        quantize=quantize,
        opset=opset,
        validation=None if validation is None else Path(validation),
        license_name=license,
        overwrite=overwrite,
        display=Display(quiet=quiet),
    )


def report(
    runs: str | Path | Sequence[str | Path],
    *,
    output: str | Path | None = None,
    sentences: int = 6,
    quiet: bool = False,
) -> Path:
    """Write one HTML file about runs, which needs no network when it is opened.

    Args:
        runs: a run's folder, or several, whose curves are laid over one another; they may still be
            training.
        output: the file; default: report.html in the folder of the first run.
        sentences: of held-out text, whose masks each run fills; 0: none.
        quiet: show no progress.

    Returns:
        The file.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.pages.report import write_report

    several = [runs] if isinstance(runs, str | Path) else runs
    return write_report(
        [Path(path) for path in several],
        output=None if output is None else Path(output),
        sentences=sentences,
        display=Display(quiet=quiet),
    )


def playground(
    path: str | Path,
    *,
    file: str | Path | None = None,
    port: int = 0,
    device: str = "auto",
    opens: bool = True,
) -> None:
    """Serve a page on this machine to play with a model, and to watch a run learn, until Ctrl-C.

    Its address, which is printed, has a random token; nobody else's page can ask it anything.

    Args:
        path: as in `load`; a run may still be training.
        file: a text in which places of words are looked for; default: what the run held out.
        port: of the loopback interface; 0: a free one.
        device: auto, cpu, cuda or mps.
        opens: open the page in the browser.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.pages.playground import serve

    serve(
        Path(path), file=None if file is None else Path(file), port=port, device=device, opens=opens
    )


def probe(
    path: str | Path,
    *,
    train: str | Path,
    validation: str | Path | None = None,
    baseline: bool = True,
    quiet: bool = False,
    **settings: Unpack[ProbeSettings],
) -> dict[str, Any]:
    """Fit a linear model to the frozen vectors of a pretrained encoder, cross-validated.

    Args:
        path: as in `load`.
        train: a table of labelled texts, which is cross-validated: .tsv, .csv, .jsonl, .json or
            .parquet.
        validation: another, on which the model of all training rows is judged.
        baseline: whether the same is done with a random encoder.
        quiet: show no progress.
        settings: any field of `ProbeConfig` and `LabelledConfig`, by name.

    Returns:
        `pretrained` and `random`: of each metric mean, deviation and values over the folds.

    Raises:
        BertsmithError: what must hold, what was found, what to do.
    """
    from bertsmith.probing import probe_folder

    labelled, config = _parted(settings, LabelledConfig, ProbeConfig)
    return probe_folder(
        Path(path),
        train=Path(train),
        validation=None if validation is None else Path(validation),
        labelled=labelled,
        config=config,
        baseline=baseline,
        display=Display(quiet=quiet),
    )


def _by_name(
    corpus: str | Path | Sequence[str | Path] | None, settings: PreparationSettings
) -> dict[str, Any]:
    """All that is asked for: the settings, with the corpus among them; paths as text."""
    asked: dict[str, Any] = {**settings}
    if corpus is not None:
        parts = (corpus,) if isinstance(corpus, str | Path) else corpus
        asked["corpus"] = tuple(str(part) for part in parts)
    if asked.get("init_from") is not None:
        asked["init_from"] = str(asked["init_from"])
    return asked


def _parted(settings: Mapping[str, Any], *classes: type[Any]) -> list[Any]:
    """Settings by name, each in the class that has it. Raises: `ConfigError` for unknown ones."""
    names = [{entry.name for entry in fields(cls)} for cls in classes]
    known = set[str]().union(*names)
    for name in settings:
        if name not in known:
            raise ConfigError(f"There is no setting `{name}`; {nearest(name, known)}")
    parts = ({name: settings[name] for name in settings if name in own} for own in names)
    return [cls(**part) for cls, part in zip(classes, parts, strict=True)]
