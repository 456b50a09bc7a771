"""Libraries that are installed by extras of the package, and what is said where one is missing."""

from __future__ import annotations

from importlib.util import find_spec

from bertsmith.errors import MissingExtraError

EXTRAS = {
    "curves": ("matplotlib",),
    "datasets": ("datasets",),
    "dedup": ("rensa",),
    "finetune": ("scipy", "sklearn"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "playground": ("jinja2", "plotly", "starlette", "uvicorn"),
    "ray": ("ray",),
    "report": ("jinja2", "plotly"),
    "search": ("bm25s",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""The modules that an extra of pyproject.toml is there for."""


def is_installed(extra: str) -> bool:
    """Whether all that an extra brings can be imported; it is not imported."""
    return all(find_spec(module) is not None for module in EXTRAS[extra])


def require(extra: str, what: str) -> None:
    """Raise `MissingExtraError` if an extra is not installed.

    Args:
        extra: of `EXTRAS`.
        what: needs it; the beginning of the message.
    """
    if not is_installed(extra):
        raise MissingExtraError(
            f"{what} needs the extra `{extra}`, which is not installed: {command_for(extra)}."
        )


def command_for(extra: str) -> str:
    """The command that installs an extra."""
    return f"pip install 'bertsmith[{extra}]'"
