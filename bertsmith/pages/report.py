"""One HTML file about runs, which needs no network: figures, curves, fills, text, settings."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bertsmith.display import Display
from bertsmith.durable import whole_file
from bertsmith.errors import BertsmithError, InputError, RunError
from bertsmith.extras import require
from bertsmith.pages.files import hash_of, template
from bertsmith.pages.runs import (
    ShownRun,
    commands,
    figures,
    fills_of,
    panels,
    read_runs,
    settings,
    text_of,
)
from bertsmith.training.checks import written_to

_MARK = b'<meta name="generator" content="Bertsmith">'
_NUMBERS = 12  # rows of the table under a curve, for each of its series
_WIDEST = 8.0  # rem, of a bar that stands for 1
_SECTIONS = {
    "figures": "Figures",
    "curves": "Curves",
    "fills": "Words for masks",
    "text": "Text",
    "settings": "Settings",
    "commands": "Commands",
}


def write_report(
    paths: Sequence[Path],
    *,
    output: Path | None = None,
    sentences: int = 6,
    display: Display | None = None,
) -> Path:
    """Write the page.

    Args:
        paths: folders of runs, which may still be training; the first one is in the title.
        output: the file; default: report.html in the folder of the first run.
        sentences: of held-out text, whose masks each run fills; 0: none.
        display: shows what goes on; default: a silent one.

    Returns:
        The file.

    Raises:
        BertsmithError: a folder is no run, or has no figures yet; the file cannot be written, or is
            something else than an earlier report.
    """
    require("report", "A report")
    if not paths or sentences < 0:
        raise InputError("A report must be of one run or more, and `sentences` not negative.")
    display = display or Display(quiet=True)
    runs = read_runs(paths)
    target = output or runs[0].path / "report.html"
    _refuse_other(target)
    shown = [_shown(run, sentences, display) for run in runs]
    with (
        written_to(target.parent, "Nothing was written."),
        whole_file(target, flushed=False) as part,
    ):
        part.write_text(_page(runs, shown), encoding="utf-8")
    return target


def _refuse_other(path: Path) -> None:
    """Raise `RunError` if there is something else than a report in a file's place."""
    if not path.exists():
        return
    if path.is_file():
        with path.open("rb") as stream:
            if _MARK in stream.read(2**12):
                return
    raise RunError(
        f"The output {path} must be new or an earlier report; it is something else. Name another "
        "with --output."
    )


def _shown(run: ShownRun, sentences: int, display: Display) -> dict[str, Any]:
    """What the page has for each run apart."""
    found: list[list[dict[str, Any]]] = []
    reason = "None were asked for." if not sentences else ""
    if sentences:
        try:
            found = fills_of(run, sentences, display)
            reason = "" if found else "No held-out sentence has a fitting length."
        except BertsmithError as error:
            reason = str(error)
    for token in (token for sentence in found for token in sentence if "guesses" in token):
        token["percent"] = f"{token['probability']:.1%}"
        for guess in token["guesses"]:
            guess["percent"] = f"{guess['probability']:.1%}"
            guess["width"] = f"{_WIDEST * guess['probability']:.2f}"
    return {
        "name": run.name,
        "text": text_of(run),
        "commands": commands(run),
        "fills": found,
        "no_fills": reason,
    }


def _page(runs: Sequence[ShownRun], shown: Sequence[dict[str, Any]]) -> str:
    from jinja2 import Environment
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    drawn = panels(runs)
    names = [run.name for run in runs]
    data = json.dumps({"panels": drawn, "runs": [_plain(name) for name in names]})
    data = data.replace("<", "\\u003c")  # or a name could end the element
    library, script = get_plotlyjs(), template("curves.js") + template("report.js")
    differing, same = settings(runs)
    return (
        Environment(autoescape=True)
        .from_string(template("report.html"))
        .render(
            title=f"Pretraining: {', '.join(names)}",
            about=", ".join(_about(run) for run in runs),
            sections=_SECTIONS.items(),
            runs=shown,
            figures=figures(runs),
            panels=[{**panel, "numbers": _numbers(panel, names)} for panel in drawn],
            differing=differing,
            same=same,
            # Of this package and of the library: text of runs is escaped, in `data` too.
            data=Markup(data),  # noqa: S704
            library=Markup(library),  # noqa: S704
            script=Markup(script),  # noqa: S704
            style=Markup(template("page.css") + template("report.css")),  # noqa: S704
            script_hashes=Markup(" ".join(map(hash_of, (library, script)))),  # noqa: S704
        )
    )


def _plain(name: str) -> str:
    """As Plotly shows it: it takes what looks like HTML in a name for such."""
    return html.escape(name, quote=False)


def _about(run: ShownRun) -> str:
    config, last = run.config, run.last
    shape = f"{config.model.num_hidden_layers} layers of {config.model.hidden_size}"
    state = "finished" if run.is_finished else f"at step {last['step']:,}, not finished"
    return f"{run.name} ({config.model.architecture} of {shape}, {state})"


def _numbers(panel: dict[str, Any], names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Some points of each curve, evenly spread, the last one among them."""
    rows = []
    for one in panel["series"]:
        count = len(one["y"])
        if one["kind"] == "training":
            continue
        chosen = sorted({round(n * (count - 1) / (_NUMBERS - 1)) for n in range(_NUMBERS)})
        rows += [
            (names[one["run"]], one["kind"], f"{one['step'][n]:,}", f"{one['y'][n]:.5g}")
            for n in chosen
        ]
    return rows
