"""A page on this machine to play with a model, and to watch it learn.

Only who knows the address can ask: it has a random token in it. The server listens on the loopback
interface, takes no request that another page sent (by its Origin) or that a name other than this
machine's led to (by its Host), bounds what it reads and how many answers it makes at once, and its
page lets no other script run.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertsmith.display import show
from bertsmith.errors import BertsmithError, InputError, RunError
from bertsmith.extras import require
from bertsmith.pages.files import hash_of, template
from bertsmith.pages.runs import ShownRun, panels

if TYPE_CHECKING:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
_MOST_BYTES = 2**16  # of a question
_MOST_WAITING = 8  # questions; more are told to come again
_SECONDS_TO_OPEN = 20.0
_SECONDS_BETWEEN_LOOKS = 2.0  # for a newer checkpoint


def serve(
    run: Path,
    *,
    file: Path | None = None,
    port: int = 0,
    device: str = "auto",
    opens: bool = True,
) -> None:
    """Serve the page until it is interrupted; its address is printed first.

    Args:
        run: a run, which may still be training, or a folder of a model.
        file: a text in which places of words are looked for; default: what the run held out.
        port: to listen on; 0: a free one.
        device: auto, cpu, cuda or mps.
        opens: open the page in the browser.

    Raises:
        BertsmithError: there is no model; the port is taken.
    """
    require("playground", "The playground")
    if not 0 <= port < 2**16:
        raise InputError(f"`port` must be from 0 to 65535; got {port}.")
    from bertsmith.pages.answers import Answers

    answers = Answers(run, file, device)
    token = secrets.token_urlsafe(24)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise RunError(
            f"Port {port} must be free on {HOST}; {error.strerror}. Give another --port."
        ) from error
    with listening:
        port = listening.getsockname()[1]
        address = f"http://{HOST}:{port}/{token}/"
        show(f"{address}  (Ctrl-C ends it)")
        sys.stdout.flush()  # whoever reads it by a pipe waits for it
        made = server(answers, token, port)
        if opens:
            threading.Thread(target=_open, args=(made, address), daemon=True).start()
        with suppress(KeyboardInterrupt):
            made.run(sockets=[listening])


def _open(made: uvicorn.Server, address: str) -> None:
    """Open the page when there is one.

    By a file that its owner alone can read: the arguments of a browser are everybody's to see.
    """
    while not made.started:
        time.sleep(0.05)
    with tempfile.NamedTemporaryFile("w", suffix=".html", delete=False) as stream:
        stream.write(
            f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'
        )
    webbrowser.open(Path(stream.name).as_uri())
    time.sleep(_SECONDS_TO_OPEN)
    Path(stream.name).unlink(missing_ok=True)


def server(answers: Any, token: str, port: int) -> uvicorn.Server:
    """What answers; see `application`."""
    import uvicorn

    page = application(answers, token, port)
    return uvicorn.Server(
        uvicorn.Config(page, log_level="warning", access_log=False, lifespan="off")
    )


def application(answers: Any, token: str, port: int) -> Starlette:
    """The page and what it asks, under the token.

    Args:
        answers: an `Answers`.
        token: the first part of every path.
        port: that the server listens on.
    """
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.routing import Mount, Route

    from bertsmith.pages.answers import AttentionAsk, FillAsk, PairAsk, TextAsk, WordAsk, answering

    asks = {
        "pieces": answering(answers.pieces, TextAsk),
        "fill": answering(answers.fill, FillAsk),
        "follows": answering(answers.follows, PairAsk),
        "nearness": answering(answers.nearness, PairAsk),
        "places": answering(answers.places, WordAsk),
        "attention": answering(answers.attention, AttentionAsk),
    }
    desk = _Desk()
    page = _page()
    gives = {"about": lambda _: answers.about(), "state": lambda _: _state(answers)}
    routes = [
        Route("/", partial(_send, page, "text/html; charset=utf-8")),
        Route("/plotly.js", partial(_send, _library(), "text/javascript; charset=utf-8")),
        *(Route(f"/{name}", partial(desk.answer, make)) for name, make in gives.items()),
        *(
            Route(f"/{name}", partial(desk.answer, make), methods=["POST"])
            for name, make in asks.items()
        ),
    ]
    guard = Middleware(_Guard, token=token, port=port)
    return Starlette(routes=[Mount(f"/{token}", routes=routes)], middleware=[guard])


class _Guard:
    """Refuses what does not come from the page itself.

    Args:
        app: what answers the rest.
        token: the first part of every path.
        port: of this server.
    """

    def __init__(self, app: Any, *, token: str, port: int) -> None:
        self._app = app
        self._token = f"/{token}/".encode()
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        path = scope["path"].encode("utf-8", "replace")
        origin = headers.get(b"origin")
        is_ours = (
            headers.get(b"host") in self._hosts
            and (origin is None or origin.removeprefix("http://") in self._hosts)
            and headers.get(b"sec-fetch-site", "none") in ("none", "same-origin")
            and secrets.compare_digest(path[: len(self._token)], self._token)
        )
        answer = self._app if is_ours else PlainTextResponse("Not allowed.", status_code=403)

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await answer(scope, receive, with_headers)


_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class _Desk:
    """Makes one answer at a time, and lets a few questions wait."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def answer(self, make: Callable[[bytes], dict[str, Any]], request: Request) -> Response:
        """What `make` gives for the request's body, as JSON; an error is one of its own."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _MOST_BYTES:
                return JSONResponse({"error": "The question is too long."}, status_code=413)
        if self._waiting >= _MOST_WAITING:
            return JSONResponse({"error": "Too many questions at once."}, status_code=503)
        self._waiting += 1
        try:
            async with self._turn:
                return JSONResponse(await run_in_threadpool(make, body))
        except BertsmithError as error:
            return JSONResponse({"error": str(error)}, status_code=400)
        except Exception as error:  # a page that gets no answer would say nothing
            return JSONResponse({"error": f"{type(error).__name__}: {error}"}, status_code=500)
        finally:
            self._waiting -= 1


async def _send(content: str, kind: str, request: Request) -> Response:
    from starlette.responses import Response

    return Response(content, media_type=kind)


def _state(answers: Any) -> dict[str, Any]:
    """How far a run is, with the newest checkpoint taken in."""
    answers.refresh()
    about = answers.about()
    found = {"about": about, "panels": [], "step": None, "is_finished": not about["is_run"]}
    try:
        run = ShownRun.read(answers.run, about["name"])
    except BertsmithError:  # no line yet
        return found
    return {
        **found,
        "panels": panels([run]),
        "step": run.last["step"],
        "is_finished": run.is_finished,
    }


def _library() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script


def _page() -> str:
    from jinja2 import Environment
    from markupsafe import Markup

    script = template("curves.js") + template("playground.js")
    return (
        Environment(autoescape=True)
        .from_string(template("playground.html"))
        .render(
            # Of this package; what is shown of a model comes later, as text.
            script=Markup(script),  # noqa: S704
            style=Markup(template("page.css") + template("playground.css")),  # noqa: S704
            script_hash=Markup(hash_of(script)),  # noqa: S704
            data=Markup(json.dumps({"seconds": _SECONDS_BETWEEN_LOOKS})),  # noqa: S704
        )
    )
