"""The page about runs, opened in a browser without a network."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bertsmith
from bertsmith.cli.main import main
from bertsmith.errors import InputError, RunError
from bertsmith.reporting.metrics_file import METRICS_FILE, read_metrics
from bertsmith.training.run import Run
from bertsmith.training.run_folder import RunFolder
from tests.support.browser import browser_pages
from tests.support.runs import TINY_RUN

HOSTILE = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def runs(
    finished_run: Run, text_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A finished run, and one with a hostile name that has another rate and less behind it."""
    other = tmp_path_factory.mktemp("runs") / HOSTILE
    settings = {**TINY_RUN, "learning_rate": 3e-4}
    bertsmith.pretrain(text_file, output=other, steps=6, quiet=True, **settings)
    return finished_run.output, other


@pytest.fixture(scope="module")
def page(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pages") / "report.html"
    return bertsmith.report(runs, output=output, sentences=3, quiet=True)


@pytest.fixture(scope="module")
def pages() -> Iterator[Any]:
    with browser_pages() as new_page:
        yield new_page


@pytest.fixture(scope="module")
def shown(page: Path, pages: Any) -> tuple[Any, list[str]]:
    """The page with its curves drawn, and what it reports as errors."""
    opened, messages = pages(page.as_uri())
    opened.wait_for_selector("#chart-0 .main-svg")
    return opened, messages


def test_the_page_shows_the_closing_figures(
    shown: tuple[Any, list[str]], runs: tuple[Path, Path]
) -> None:
    opened, messages = shown
    closing = [read_metrics(run)[-1] for run in runs]
    rows = {
        row.query_selector("th").inner_text(): [
            cell.inner_text() for cell in row.query_selector_all("td")
        ]
        for row in opened.query_selector_all("#figures tbody tr")
    }
    for name, form in (("mlm", "{:.3f}"), ("nsp", "{:.3f}")):
        expected = [form.format(one[f"validation_{name}_loss"]) for one in closing]
        assert rows[f"{name.upper()} loss, validation"][:2] == expected
    assert rows["NSP loss, validation"][2] == "0.693 (chance)"
    assert rows["steps"][:2] == ["8", "6"]
    assert messages == []


def test_curves_are_drawn_and_laid_out_anew(shown: tuple[Any, list[str]]) -> None:
    opened, messages = shown
    assert opened.locator(".chart .main-svg").count() > 0

    def title() -> str:
        text: str = opened.evaluate("document.getElementById('chart-0').layout.xaxis.title.text")
        return text

    assert title() == "optimizer step"
    opened.select_option("#along", "tokens")
    assert title() == "tokens"
    full = opened.evaluate("document.getElementById('chart-0')._fullLayout.xaxis.range")
    opened.focus("[data-move=in]")
    opened.keyboard.press("Enter")
    closer = opened.evaluate("document.getElementById('chart-0')._fullLayout.xaxis.range")
    assert full[0] < closer[0] < closer[1] < full[1]
    assert messages == []


def test_names_are_text(shown: tuple[Any, list[str]]) -> None:
    opened, messages = shown
    assert opened.evaluate("window.hacked") is None
    assert opened.locator("img[src=x]").count() == 0
    assert HOSTILE in opened.inner_text("#figures thead")
    assert "onerror" in opened.inner_text("#chart-0")
    # What a page were made to run after all, its policy refuses.
    opened.evaluate(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 2';"
        "document.body.append(s)"
    )
    assert opened.evaluate("window.hacked") is None
    assert any("Content Security Policy" in message for message in messages)
    messages.clear()


def test_settings_that_differ_are_apart(shown: tuple[Any, list[str]]) -> None:
    opened, _ = shown
    rows = opened.locator("#settings > .wide tbody tr").all_inner_texts()
    assert {row.split()[0] for row in rows} >= {"learning_rate", "steps"}
    assert not any(row.startswith("batch_size") for row in rows)
    assert "batch_size" in opened.text_content("#settings details")


def test_masks_are_filled_beside_the_true_words(shown: tuple[Any, list[str]]) -> None:
    opened, _ = shown
    assert opened.locator("#fills .sentence").count() == 6
    for table in opened.locator("#fills .guesses table").all():
        shares = [float(text.strip(" %")) for text in table.locator("td").all_inner_texts()]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_readable_on_a_phone_by_everyone(page: Path, pages: Any, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened, _ = pages(page.as_uri(), color_scheme=theme, viewport={"width": 390, "height": 800})
    opened.wait_for_selector("#chart-0 .main-svg")
    assert opened.evaluate("document.documentElement.scrollWidth") == 390
    # axe runs in the page, whose policy lets no other script run; it is read for this test alone.
    opened, _ = pages(
        page.as_uri(), color_scheme=theme, viewport={"width": 390, "height": 800}, bypass_csp=True
    )
    found = axe.Axe().run(opened).response["violations"]
    serious = [one["id"] for one in found if one["impact"] in ("serious", "critical")]
    assert serious == []


def test_printed_it_is_light(page: Path, pages: Any) -> None:
    opened, _ = pages(page.as_uri(), color_scheme="dark")
    opened.emulate_media(media="print")
    assert (
        opened.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    )
    assert not opened.is_visible(".controls")


def test_a_run_that_is_still_training_has_a_page(
    finished_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished_run.output, tmp_path / "going"))
    shutil.rmtree(run / "model")
    lines = (run / METRICS_FILE).read_bytes().splitlines(keepends=True)
    (run / METRICS_FILE).write_bytes(b"".join(lines[:-1]))
    with pytest.raises(SystemExit) as left:
        main(["report", str(run), "--json"])
    assert not left.value.code
    path = Path(json.loads(capsys.readouterr().out)["file"])
    assert path == run / "report.html"
    assert "not finished" in path.read_text(encoding="utf-8")
    corpus = json.loads((run / "corpus.json").read_text())
    corpus["splits"]["train"]["tokens"] = "many"
    odd = {"step": 7, "learning_rate": 1e-3, "mlm_loss": 3.0, "grad_norm": "x", "seconds": None}
    before = path.read_bytes()
    assert bertsmith.report(run, quiet=True).read_bytes() == before
    (run / "corpus.json").write_text(json.dumps(corpus))
    with (run / METRICS_FILE).open("a") as stream:
        stream.write(json.dumps({**odd, "parameters": "x"}) + "\n")
    assert "is not as a run writes it" in bertsmith.report(run, quiet=True).read_text("utf-8")
    RunFolder(run, overwrite=True).release()  # which takes it for a run


def test_nothing_in_the_file_asks_for_more(page: Path) -> None:
    text = re.sub(r"<script.*?</script>", "", page.read_text(encoding="utf-8"), flags=re.S)
    assert not re.search(r"(src|href)=.(https?:)?//", text)
    assert "default-src 'none'" in text


def test_what_is_refused(finished_run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"must be a run's folder, with config\.toml"):
        bertsmith.report(tmp_path, quiet=True)
    with pytest.raises(InputError, match="of one run or more"):
        bertsmith.report([], quiet=True)
    with pytest.raises(RunError, match="has no figures yet"):
        empty = tmp_path / "empty"
        empty.mkdir()
        shutil.copy(finished_run.output / "config.toml", empty)
        bertsmith.report(empty, quiet=True)
    (tmp_path / "mine.html").write_text("kept")
    with pytest.raises(RunError, match="must be new or an earlier report"):
        bertsmith.report(finished_run.output, output=tmp_path / "mine.html", quiet=True)
    assert (tmp_path / "mine.html").read_text() == "kept"
    with pytest.raises(RunError, match="Cannot write to"):
        bertsmith.report(
            finished_run.output, output=tmp_path / "no" / "where.html", sentences=0, quiet=True
        )
    assert [path.name for path in (tmp_path / "empty").iterdir()] == ["config.toml"]
