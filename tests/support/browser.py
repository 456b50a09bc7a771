"""A headless Chromium without a network, where there is one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextmanager
def browser_pages() -> Iterator[Callable[..., tuple[Any, list[str]]]]:
    """Opens pages by their addresses: each with a list of what the page reports as errors.

    Skips where there is no browser. Its address is looked for in BERTSMITH_TEST_CHROMIUM, too.
    """
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    named = os.environ.get("BERTSMITH_TEST_CHROMIUM")
    path = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("no Chromium: install it, or name it in BERTSMITH_TEST_CHROMIUM")
    with sync.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])

        def new_page(address: str, *, offline: bool = True, **how: Any) -> tuple[Any, list[str]]:
            context = browser.new_context(**how)
            context.set_offline(offline)
            page = context.new_page()
            messages: list[str] = []
            page.on("pageerror", lambda error: messages.append(str(error)))
            page.on(
                "console", lambda one: messages.append(one.text) if one.type == "error" else None
            )
            page.goto(address)
            return page, messages

        yield new_page
        browser.close()
