"""Where downloads and prepared texts are kept."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def cache_folder() -> Path:
    """The user's cache directory for Bertsmith; `BERTSMITH_CACHE` names another."""
    return Path(os.environ.get("BERTSMITH_CACHE") or platformdirs.user_cache_dir("bertsmith"))


def wikitext_folder() -> Path:
    """Where WikiText-2 lies once it is downloaded."""
    return cache_folder() / "wikitext-2"


def prepared_stores() -> tuple[int, int]:
    """How many token stores are kept, and their bytes."""
    folder = cache_folder() / "stores"
    stores = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    files = (file for store in stores for file in store.rglob("*") if file.is_file())
    return len(stores), sum(file.stat().st_size for file in files)


def cached_wikitext() -> Path | None:
    """The folder of a finished download, or None; only a whole one is renamed into place."""
    folder = wikitext_folder()
    return folder if folder.is_dir() else None
