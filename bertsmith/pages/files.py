"""The templates of pages, and the digests by which a page's policy lets its scripts run."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

_TEMPLATES = files("bertsmith.pages") / "templates"


def template(name: str) -> str:
    """A file of the folder `templates`."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def hash_of(script: str) -> str:
    """What a Content-Security-Policy calls a script by its content."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return f"'sha256-{digest}'"
