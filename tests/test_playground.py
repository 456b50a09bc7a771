"""The page to play with a model: what it answers, whom it refuses, and how it looks."""

from __future__ import annotations

import http.client
import json
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import AutoModel

import bertsmith
from bertsmith.cli.main import main
from bertsmith.errors import InputError, ModelError, RunError
from bertsmith.inference.model import compare
from bertsmith.pages import playground
from bertsmith.pages.answers import Answers, AttentionAsk, FillAsk, PairAsk, TextAsk, WordAsk
from bertsmith.reporting.metrics_file import METRICS_FILE
from bertsmith.training.run import Run
from tests.support.browser import browser_pages
from tests.support.runs import TINY_RUN

TEXT = "the crane lifts the bird"


class Server(NamedTuple):
    """One that listens."""

    port: int
    token: str
    answers: Answers

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/{self.token}/"

    def ask(
        self, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, dict[str, Any] | str]:
        """Status and answer; a path that begins with / is taken as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        where = path if path.startswith("/") else f"/{self.token}/{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("GET" if body is None else "POST", where, body, named)
        answer = connection.getresponse()
        text = answer.read().decode("utf-8")
        connection.close()
        is_json = answer.headers["content-type"] == "application/json"
        return answer.status, json.loads(text) if is_json else text


@contextmanager
def serving(run: Path, file: Path | None = None) -> Iterator[Server]:
    """A server on a free port, in a thread."""
    answers, token = Answers(run, file, "cpu"), secrets.token_urlsafe(8)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        server = playground.server(answers, token, port)
        thread = threading.Thread(target=lambda: server.run(sockets=[listening]))
        thread.start()
        yield Server(port, token, answers)
        server.should_exit = True
        thread.join(60)


@pytest.fixture(scope="module")
def server(finished_run: Run, text_file: Path) -> Iterator[Server]:
    with serving(finished_run.output, text_file) as found:
        yield found


@pytest.fixture(scope="module")
def pages() -> Iterator[Callable[..., Any]]:
    with browser_pages() as new_page:
        yield lambda address, **how: new_page(address, offline=False, **how)


def test_masked_words_are_filled_as_by_the_command(server: Server, finished_run: Run) -> None:
    found = server.answers.fill(FillAsk(text=TEXT, masked=[1]))
    (words,) = bertsmith.load(finished_run.output, device="cpu").fill(
        "the [MASK] lifts the bird", top_k=3
    )
    guesses = found["masks"]["1"]["guesses"][:3]
    assert [one["text"] for one in guesses] == [word.token for word in words]
    np.testing.assert_allclose(
        [one["probability"] for one in guesses], [w.probability for w in words], atol=1e-6
    )
    assert [token["text"] for token in found["tokens"]] == TEXT.split()
    spelled = server.answers.fill(FillAsk(text="the [MASK] lifts the bird", masked=[]))
    assert spelled["masks"]["1"]["guesses"] == found["masks"]["1"]["guesses"]
    assert spelled["masks"]["1"]["true"] is None
    with pytest.raises(InputError, match="must be among the 5 of the text"):
        server.answers.fill(FillAsk(text=TEXT, masked=[5]))


def test_other_answers_are_those_of_the_package(server: Server, finished_run: Run) -> None:
    model = bertsmith.load(finished_run.output, device="cpu")
    asked = PairAsk(text="a crane is here", other="the crane flies")
    found = server.answers.nearness(asked)
    left, right = (model.encode_one(text) for text in (asked.text, asked.other))
    shared = [(one["word"], one["cosine"]) for one in found["shared"]]
    assert shared == compare(left, right)
    place = [words.index("crane") for words in found["words"]]
    cosine = found["cosines"][place[0]][place[1]]
    assert cosine == pytest.approx(dict(shared)["crane"], abs=1e-4)
    follows = server.answers.follows(asked)["probability"]
    assert follows == pytest.approx(model.next_sentence(asked.text, asked.other))
    places = server.answers.places(WordAsk(word="crane"))
    assert places["count"] == len(places["places"]) > 3
    assert {one["word"].lower() for one in places["places"]} == {"crane"}
    assert server.answers.pieces(TextAsk(text="qqq"))["tokens"][0]["unknown"]


@pytest.mark.parametrize("architecture", ["bert", "modernbert"])
def test_attention_is_that_of_transformers(
    text_file: Path, tmp_path: Path, architecture: str, finished_run: Run
) -> None:
    run = finished_run.output
    if architecture == "modernbert":
        more: dict[str, Any] = {"architecture": architecture, "local_attention": 8}
        settings = {**TINY_RUN, **more, "num_hidden_layers": 4, "steps": 2}
        run = bertsmith.pretrain(text_file, output=tmp_path / "run", quiet=True, **settings).output
    answers = Answers(run, None, "cpu")
    text = "the crane lifts the bird and the old river is grey in the winter"
    model = AutoModel.from_pretrained(run / "model", attn_implementation="eager").eval()
    tokenizer = answers.model.tokenizer
    ids = [tokenizer.cls_id, *tokenizer.encode_with_spans(text)[0], tokenizer.sep_id]
    with torch.inference_mode():
        theirs = model(torch.tensor([ids]), output_attentions=True).attentions
    for layer in range(answers.about()["layers"]):
        found = answers.attention(AttentionAsk(text=text, layer=layer, head=1))
        np.testing.assert_allclose(
            found["probabilities"], theirs[layer][0, 1].numpy(), atol=1e-4, rtol=0
        )
        assert found["tokens"][1] == "the"
    with pytest.raises(InputError, match="such a layer and head"):
        answers.attention(AttentionAsk(text=text, layer=99, head=0))


def test_only_the_page_itself_is_answered(server: Server) -> None:
    body = json.dumps({"text": TEXT, "masked": [1]}).encode()
    own = f"http://127.0.0.1:{server.port}"
    assert server.ask("fill", body, Origin=own)[0] == 200
    assert server.ask("about")[0] == 200
    assert server.ask("fill", body, Origin="http://elsewhere.example")[0] == 403
    assert server.ask("fill", body, Origin="null")[0] == 403
    assert server.ask("fill", body, Host="elsewhere.example")[0] == 403
    assert server.ask("fill", body, Sec_Fetch_Site="cross-site")[0] == 403
    for path in ("/", "/fill", "/about", f"/{'x' * len(server.token)}/about", f"/{server.token}"):
        assert server.ask(path)[0] == 403, path
    assert server.ask("nothing")[0] == 404
    assert server.ask("fill")[0] == 405


def test_what_is_asked_is_bounded(server: Server) -> None:
    for body, status, words in (
        (b"x" * 2**17, 413, "too long"),
        (b"no json", 400, "must be JSON"),
        (b'{"text": 3, "masked": []}', 400, "must be JSON"),
        (b'{"text": "a", "masked": [], "more": 1}', 400, "must be JSON"),
        (json.dumps({"text": "a" * 5000, "masked": []}).encode(), 400, "at most 4,000 letters"),
        (b'{"text": "\\ud800", "masked": []}', 400, ""),
    ):
        found, answer = server.ask("fill", body)
        assert found == status, (body[:40], answer)
        assert isinstance(answer, dict)
        assert words in answer["error"]


def test_few_questions_wait(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    held, asked = threading.Event(), threading.Event()

    def about(self: Answers) -> dict[str, Any]:
        asked.set()
        held.wait(30)
        return {}

    monkeypatch.setattr(Answers, "about", about)
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(server.ask("about")[0])) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    assert asked.wait(30)
    deadline = time.monotonic() + 30
    while statuses.count(503) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    held.set()
    for thread in threads:
        thread.join(30)
    assert sorted(statuses) == [200] * 8 + [503] * 4


def test_pieces_are_clicked_and_words_appear(server: Server, pages: Callable[..., Any]) -> None:
    page, messages = pages(server.address)
    page.wait_for_selector("#pieces button")
    page.fill("#text", "the <img src=x onerror=window.hacked=1> crane lifts")
    lifts = page.locator("#pieces button", has_text="lifts")
    lifts.wait_for()
    assert page.locator("#masks table").count() == 0
    lifts.click()
    page.wait_for_selector("#masks table")
    assert "in the place of lifts" in page.inner_text("#masks caption")
    rows = page.locator("#masks tr").all_inner_texts()
    place = page.locator("#pieces button").all_inner_texts().index("lifts")
    asked = FillAsk(text=page.input_value("#text"), masked=[place])
    (one,) = server.answers.fill(asked)["masks"].values()
    assert [row.split()[0] for row in rows] == [guess["text"] for guess in one["guesses"]]
    lifts.click()
    page.wait_for_selector("#masks table", state="detached")
    page.fill("#word", "crane")
    page.press("#word", "Enter")
    page.wait_for_selector("#map .main-svg")
    assert page.locator("#places li").count() > 3
    page.select_option("#head", "1")
    page.wait_for_selector("#heat .main-svg")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src=x]").count() == 0
    assert messages == []


def test_a_run_is_watched_while_it_learns(
    finished_run: Run, tmp_path: Path, pages: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(playground, "_SECONDS_BETWEEN_LOOKS", 0.2)
    run = Path(shutil.copytree(finished_run.output, tmp_path / "going"))
    first, later = (path.name for path in sorted((run / "checkpoints").iterdir())[-2:])
    shutil.move(run / "checkpoints" / later, tmp_path / "kept")
    shutil.rmtree(run / "model")
    lines = (run / METRICS_FILE).read_bytes().splitlines(keepends=True)
    (run / METRICS_FILE).write_bytes(b"".join(lines[:4]))
    with serving(run) as server:
        page, messages = pages(server.address)
        page.wait_for_selector("#live-0 .main-svg")
        count = "document.getElementById('live-0').data[0].y.length"
        before = page.evaluate(count)
        assert first in page.inner_text("#about")
        (run / METRICS_FILE).write_bytes(b"".join(lines[:-1]))
        shutil.move(tmp_path / "kept", run / "checkpoints" / later)
        page.locator("#about", has_text=later).wait_for()
        assert page.evaluate(count) > before
        assert messages == []


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_used_on_a_phone_by_everyone(
    server: Server, pages: Callable[..., Any], theme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    how: dict[str, Any] = {"color_scheme": theme, "viewport": {"width": 390, "height": 800}}
    page, _ = pages(server.address, bypass_csp=True, **how)
    page.wait_for_selector("#heat .main-svg")
    page.locator("#pieces button").first.click()
    page.wait_for_selector("#masks table")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    found = axe.Axe().run(page).response["violations"]
    assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []


def test_the_command_serves_until_it_is_interrupted(finished_run: Run, text_file: Path) -> None:
    command = ["-m", "bertsmith", "playground", str(finished_run.output), "--no-browser"]
    with subprocess.Popen(
        [sys.executable, *command, "--file", str(text_file), "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            with urllib.request.urlopen(f"{address}about", timeout=60) as answer:
                assert json.load(answer)["fills"]
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (0, "")


def test_what_is_refused_before_it_begins(
    finished_run: Run, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RunError, match=rf"Port {server.port} must be free on 127\.0\.0\.1"):
        bertsmith.playground(finished_run.output, port=server.port, opens=False)
    with pytest.raises(InputError, match="`port` must be from 0 to 65535"):
        bertsmith.playground(finished_run.output, port=70_000, opens=False)
    with pytest.raises(ModelError, match="There is no run and no model folder"):
        bertsmith.playground(tmp_path / "nowhere", opens=False)
    with pytest.raises(SystemExit) as left:
        main(["playground", str(finished_run.output), "--port", "-1", "--no-browser"])
    assert left.value.code == 1
    assert "`port` must be from 0" in capsys.readouterr().err
    with pytest.raises(InputError, match="begin the playground with --file"):
        alone = shutil.copytree(finished_run.output / "model", tmp_path / "alone")
        Answers(Path(alone), None, "cpu").places(WordAsk(word="crane"))
