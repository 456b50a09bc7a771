"""`--precision auto`: bfloat16 where the processor has it, in config.toml and in words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bertsmith.hardware import device as device_module
from bertsmith.hardware import native
from bertsmith.hardware.device import compute_dtype, settled_precision
from bertsmith.ranks import Ranks
from tests.support.texts import make_documents, write_text

CPU = torch.device("cpu")
_RUN = (
    "--preset textbook --min-frequency 1 --hidden-size 16 --intermediate-size 16 "
    "--num-hidden-layers 1 --batch-size 4 --steps 3 --device cpu"
)


@pytest.fixture
def native_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if all was there; a product of bfloat16 takes a third of the time."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(native, "_seconds", {torch.float32: 3.0, torch.bfloat16: 1.0}.__getitem__)


def _asked_anew() -> bool:
    return native.has_native_bfloat16.__wrapped__()


@pytest.mark.usefixtures("native_processor")
def test_bfloat16_is_native_if_processor_libraries_and_a_product_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _asked_anew()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx512_core_bf16")
    assert _asked_anew()


def _without_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": True}, raising=False)


def _without_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)


def _without_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")


def _without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)


def _with_its_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "avx512_core")


def _with_slow_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_seconds", {torch.float32: 1.2, torch.bfloat16: 1.0}.__getitem__)


@pytest.mark.usefixtures("native_processor")
@pytest.mark.parametrize(
    "change",
    [
        _without_flag,
        _without_capabilities,
        _without_vectors,
        _without_onednn,
        _with_its_switch,
        _with_slow_products,
    ],
)
def test_what_any_of_them_lacks_is_not_native(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    assert not _asked_anew()


def test_the_time_of_a_product_is_taken() -> None:
    assert 0 < native._seconds(torch.float32) < 10


@pytest.mark.parametrize("has_it", [True, False])
def test_auto_goes_by_the_processor_and_what_is_asked_for_does_not(
    has_it: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "has_native_bfloat16", lambda: has_it)
    assert compute_dtype(CPU, "auto") == (torch.bfloat16 if has_it else torch.float32)
    assert settled_precision(CPU, "auto") == ("bfloat16" if has_it else "float32")
    assert settled_precision(CPU, "bfloat16") == "bfloat16"
    assert settled_precision(CPU, "float32") == "float32"
    assert settled_precision(torch.device("mps"), "auto") == "float32"


def test_ranks_have_bfloat16_only_if_all_of_them_can(monkeypatch: pytest.MonkeyPatch) -> None:
    class OneOfThemCannot(Ranks):
        def any(self, is_so: bool) -> bool:
            return True

    monkeypatch.setattr(device_module, "has_native_bfloat16", lambda: True)
    assert settled_precision(CPU, "auto", OneOfThemCannot()) == "float32"


def _pretrained(folder: Path, *flags: str, **variables: str) -> str:
    """What a run says on standard error."""
    environment = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"} | variables
    arguments = [*_RUN.split(), "--output", str(folder), *flags]
    done = subprocess.run(
        [sys.executable, "-m", "bertsmith", "pretrain", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_says_its_precision_writes_it_down_and_keeps_it(tmp_path: Path) -> None:
    """On the processor as it is, and on it as one without bfloat16."""
    text = write_text(tmp_path / "text.txt", make_documents())
    for name, variables in {"own": {}, "plain": {"ATEN_CPU_CAPABILITY": "avx2"}}.items():
        precision = "bfloat16" if name == "own" and native_here() else "float32"
        said = _pretrained(tmp_path / name, "--corpus", str(text), **variables)
        assert f"tokens at once, in {precision}." in said
        written = (tmp_path / name / "config.toml").read_text(encoding="utf-8")
        assert f'precision = "{precision}"' in written
    # Gone on with where `auto` is another: as before.
    other: dict[str, Any] = {"ATEN_CPU_CAPABILITY": "avx2"}
    before = "bfloat16" if native_here() else "float32"
    said = _pretrained(tmp_path / "own", "--resume", "--steps", "5", **other)
    assert f"tokens at once, in {before}." in said


def native_here() -> bool:
    """Whether the processor of this machine has it, whatever the tests are told."""
    code = "from bertsmith.hardware.native import has_native_bfloat16 as h; print(h())"
    environment = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip() == "True"
