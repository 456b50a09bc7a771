"""The README.md of a model's folder: what it learnt from, how, how well, and how to load it.

Its head is what the Hugging Face Hub reads (`huggingface_hub.ModelCardData`). No path of the
machine stands in it, and nothing that differs between two runs of the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from bertsmith.config import BUDGETS, TOKENIZERS, PretrainConfig

CARD_FILE = "README.md"

_HUB = "hf:"
_SETTINGS = (
    "objective max_length first_max_length pairing mlm_probability mlm_probability_end masking "
    "batch_size batch_size_end optimizer learning_rate muon_learning_rate embedding_learning_rate "
    "scalar_learning_rate adam_epsilon weight_decay lr_scheduler_type warmup_ratio averaging "
    "precision seed"
).split()


def run_card(config: PretrainConfig, report: Mapping[str, Any], figures: Mapping[str, Any]) -> str:
    """That of a pretrained model.

    Args:
        config: of the run.
        report: what corpus.json says.
        figures: its closing ones.
    """
    names = [*config.preparation.corpus]
    language = config.preparation.language
    head = _head(
        language=[language] if language else None,
        license=config.training.license,
        library_name="transformers",
        pipeline_tag="fill-mask",
        tags=["bertsmith", config.model.architecture, "masked-lm"],
        datasets=[name.removeprefix(_HUB) for name in names if name.startswith(_HUB)] or None,
    )
    model = config.model
    begun = "on from an earlier model" if config.training.init_from else "from random weights"
    lines = [
        f"# {model.architecture} of {model.num_hidden_layers} layers of {model.hidden_size}",
        "",
        f"An encoder of {figures['parameters']:,} parameters, pretrained {begun} with Bertsmith.",
        "",
        *_text(config, report, figures),
        "## Training",
        "",
        f"{figures['steps']:,} steps, {figures['tokens']:,} tokens. "
        + ", ".join(f"`{name}` {value}" for name, value in _settings(config).items())
        + ".",
        "",
        "## Figures",
        "",
        *_validation(figures),
        "",
        "## Use",
        "",
        "```python",
        "from transformers import pipeline",
        "",
        'fill = pipeline("fill-mask", model="PATH_OR_NAME")',
        'fill(f"… {fill.tokenizer.mask_token} …")',
        "```",
    ]
    return "\n".join([*head, *lines, ""])


def _text(
    config: PretrainConfig, report: Mapping[str, Any], figures: Mapping[str, Any]
) -> list[str]:
    """What it learnt from, and how that was cut into tokens."""
    vocabulary = report.get("vocabulary", {})
    columns = ("documents", "sentences", "words", "tokens", "unknown_tokens")
    rows = [
        [split, *(f"{counts.get(name, 0):,}" for name in columns)]
        for split, counts in report["splits"].items()
    ]
    return [
        "## Text",
        "",
        f"{', '.join(map(_name, config.preparation.corpus))}; language: "
        f"{config.preparation.language or 'not said'}.",
        "",
        *_table(["", *(name.replace("_", " ") for name in columns)], rows),
        "",
        *_left_out(report.get("left_out", {})),
        "## Tokenizer",
        "",
        f"{_name(str(vocabulary.get('kind', 'as prepared')))}, {figures['vocabulary_entries']:,} "
        f"entries, {vocabulary.get('tokens_a_word', 0):.2f} tokens a word{_case(config)}.",
        "",
    ]


def _case(config: PretrainConfig) -> str:
    """What became of upper case, where the tokenizer was trained by the settings."""
    if config.preparation.tokenizer not in TOKENIZERS:
        return ""
    return "; lower-cased" if config.preparation.lowercase else "; case kept"


def finetuned_card(results: Mapping[str, Any], license_name: str | None) -> str:
    """That of a fine-tuned model.

    Args:
        results: what results.json says.
        license_name: as `--license` says it.
    """
    task = results["task"]
    kinds = {"similarity": "sentence-similarity", "tokens": "token-classification"}
    kind = kinds.get(task, "text-classification")
    begins = str(results.get("begins_from", ""))
    head = _head(
        license=license_name,
        library_name="sentence-transformers" if task == "similarity" else "transformers",
        pipeline_tag=kind,
        tags=["bertsmith", *(["sentence-transformers"] if task == "similarity" else [])],
        base_model=begins.removeprefix(_HUB).partition("@")[0] if begins.startswith(_HUB) else None,
    )
    rows = results["rows"]
    what = {
        "similarity": f"Vectors of texts, learnt from {results.get('source')} by contrast",
        "tokens": f"Tags of words: {', '.join(results.get('classes', ())[:20])}",
        "scores": "A score of a text",
    }.get(task, f"Classes of texts: {', '.join(map(str, results.get('classes', ())[:20]))}")
    lines = [
        f"# {kind.replace('-', ' ').capitalize()}",
        "",
        f"{what}. Fine-tuned with Bertsmith on {rows['train']:,} rows; the model is that of seed "
        f"{results['best_seed']}, the best by {results['metric']} on "
        f"{rows['validation']:,} validation rows.",
        "",
        "## Figures",
        "",
        *_figures(results),
        "",
        "## Use",
        "",
        "```python",
        *_use(task, kind),
        "```",
    ]
    return "\n".join([*head, *lines, ""])


def exported_card(
    report: Mapping[str, Any], source: Path, *, example: str, license_name: str | None
) -> str:
    """That of an exported model, with what the model's own card says after it.

    Args:
        report: what export.json says.
        source: the model's own README.md, which may not be there.
        example: a program that runs it.
        license_name: as `--license` says it; None: as the model's own card.
    """
    about, said = _read_card(source)
    task, precision = report["task"], report["precision"]
    head = _head(
        language=about.get("language"),
        license=license_name or about.get("license"),
        license_name=None if license_name else about.get("license_name"),
        license_link=None if license_name else about.get("license_link"),
        library_name="onnx",
        pipeline_tag=task,
        tags=["bertsmith", "onnx", *(["int8"] if precision == "int8" else [])],
        datasets=about.get("datasets"),
        base_model=about.get("base_model"),
    )
    sizes = [f"{count / 1e6:,.1f} MB in {name}" for name, count in report["bytes"].items()]
    output = report["output"]
    differences = [f"{share:.1e} in {name}" for name, share in report["largest_difference"].items()]
    lines = [
        f"# {task.replace('-', ' ').capitalize()}, as ONNX in {precision}",
        "",
        f"Opset {report['opset']}; {', '.join(sizes)}. Texts of at most {report['max_length']} "
        f"tokens. Inputs {', '.join(report['inputs'])}: int64 [batch, length]; output "
        f"{output['name']}: float32 {_shape(output['shape'])}.",
        "",
        "The largest difference from the model's outputs, as a share of the largest output: "
        f"{', '.join(differences)}.",
        "",
        *_of_precisions(report),
        "## Use",
        "",
        "`pip install onnxruntime tokenizers` is all that this needs:",
        "",
        "```python",
        *example.splitlines(),
        "```",
        *(["", "## The model", "", *said] if said else []),
    ]
    return "\n".join([*head, *lines, ""])


def _shape(sizes: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, sizes))}]"


def _of_precisions(report: Mapping[str, Any]) -> list[str]:
    """What the task's figures are in float32 and in 8 bits, where that was judged."""
    if not report["figures"]:
        return []
    by_name = report["figures"]
    names = list(next(iter(by_name.values())))
    rows = [[name, *(_number(found[name]) for found in by_name.values())] for name in names]
    return [f"On {report['judged_by']}:", "", *_table(["", *by_name], rows), ""]


def _read_card(path: Path) -> tuple[dict[str, Any], list[str]]:
    """What a card's metadata say, and its text without title and use, one heading lower."""
    from huggingface_hub import ModelCard
    from yaml import YAMLError

    if not path.is_file():
        return {}, []
    try:
        card = ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=True)
        about: dict[str, Any] = card.data.to_dict()
    except (OSError, ValueError, YAMLError):  # a stranger's, which need not be one
        return {}, []
    kept, keeps, in_code = [], True, False
    for line in card.text.strip().splitlines():
        in_code ^= line.startswith("```")
        if not in_code and line.startswith("## "):
            keeps = line != "## Use"
        if keeps and (in_code or not line.startswith("# ")):
            kept.append(f"#{line}" if line.startswith("##") and not in_code else line)
    return about, "\n".join(kept).strip().splitlines()


def _head(**metadata: Any) -> list[str]:
    from huggingface_hub import ModelCardData

    text = ModelCardData(**{k: v for k, v in metadata.items() if v is not None}).to_yaml()
    return ["---", str(text).strip(), "---", ""]


def _name(name: str) -> str:
    """A corpus or a tokenizer without the folders of this machine."""
    return name if name.startswith(_HUB) or "/" not in name else PurePath(name).name


def _settings(config: PretrainConfig) -> dict[str, Any]:
    found = {**vars(config.data), **vars(config.training)}
    names = [name for name in (*BUDGETS, *_SETTINGS) if found.get(name) not in (None, "none")]
    is_muon = config.training.optimizer == "muon"
    if config.data.first_max_length is not None:
        names.insert(names.index("first_max_length") + 1, "first_length_ratio")
    return {n: found[n] for n in names if n != "muon_learning_rate" or is_muon}


def _validation(figures: Mapping[str, Any]) -> list[str]:
    titles = {
        "validation_mlm_loss": ("MLM loss, nats", "validation_unigram_mlm_loss", "{:.3f}"),
        "validation_mlm_accuracy": ("MLM accuracy", "", "{:.1%}"),
        "validation_nsp_accuracy": ("next sentence accuracy", "", "{:.1%}"),
    }
    rows = []
    for name, (title, floor, form) in titles.items():
        if figures.get(name) is not None:
            floor_value = figures.get(floor)
            shown = "–" if floor_value is None else form.format(floor_value)
            rows.append([title, form.format(figures[name]), shown])
    if not rows:
        return ["Nothing was held out to judge it by."]
    about = (
        "On the text that was held out, with fixed masks of 15 %; the floor is word frequencies."
    )
    return [about, "", *_table(["", "model", "floor"], rows)]


def _figures(results: Mapping[str, Any]) -> list[str]:
    columns = {"pretrained": "this model", "random": "the same from random weights"}
    kinds = [kind for kind in columns if kind in results]
    names = [n for n, v in results["pretrained"].items() if isinstance(v, dict) and "mean" in v]
    before = results.get("untrained")
    rows = []
    for name in names:
        cells = [_spread(results[kind].get(name)) for kind in kinds]
        rows.append([name, *cells, *([_number(before.get(name))] if before else [])])
    title = f"over {len(results['seeds'])} seeds" if len(results["seeds"]) > 1 else "one seed"
    header = [title, *(columns[kind] for kind in kinds), *(["before training"] if before else [])]
    table = _table(header, rows)
    if "majority_accuracy" in results:
        table += ["", f"The most frequent class alone: {results['majority_accuracy']:.1%}."]
    return table


def _spread(figure: Any) -> str:
    if not isinstance(figure, dict):
        return "–"
    spread = "" if figure["std"] is None else f" ± {figure['std']:.3f}"
    return f"{_number(figure['mean'])}{spread}"


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else "–"


def _use(task: str, kind: str) -> list[str]:
    if task == "similarity":
        return [
            "from sentence_transformers import SentenceTransformer",
            "",
            'SentenceTransformer("PATH_OR_NAME").encode(["a text"])',
        ]
    more = ', aggregation_strategy="simple"' if task == "tokens" else ""
    return [
        "from transformers import pipeline",
        "",
        f'pipeline("{kind}", model="PATH_OR_NAME"{more})("a text")',
    ]


def _left_out(counts: Mapping[str, int]) -> list[str]:
    said = ", ".join(f"{count:,} {reason}" for reason, count in counts.items() if count)
    return [f"Left out: {said}.", ""] if said else []


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(str(cell).replace('|', ' ') for cell in row)} |" for row in cells]
