"""The README.md of a model's folder: what it learnt from, how, how well, and how to load it.

Its head is what the Hugging Face Hub reads (`huggingface_hub.ModelCardData`). No path of the
machine stands in it, and nothing that differs between two runs of the same settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from bertsmith.config import BUDGETS, TOKENIZERS, PretrainConfig

CARD_FILE = "README.md"

_HUB = "hf:"
_SETTINGS = (
    "objective max_length pairing mlm_probability mlm_probability_end masking batch_size optimizer "
    "learning_rate muon_learning_rate weight_decay lr_scheduler_type warmup_ratio precision seed"
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


def _head(**metadata: Any) -> list[str]:
    from huggingface_hub import ModelCardData

    text = ModelCardData(**{k: v for k, v in metadata.items() if v is not None}).to_yaml()
    return ["---", str(text).strip(), "---", ""]


def _name(name: str) -> str:
    """A corpus or a tokenizer without the folders of this machine."""
    return name if name.startswith(_HUB) or "/" not in name else PurePath(name).name


def _settings(config: PretrainConfig) -> dict[str, Any]:
    found = {**vars(config.data), **vars(config.training)}
    names = [name for name in (*BUDGETS, *_SETTINGS) if found.get(name) is not None]
    is_muon = config.training.optimizer == "muon"
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
