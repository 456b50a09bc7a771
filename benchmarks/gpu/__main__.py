"""The stages: `python -m benchmarks.gpu STAGE`; see the package."""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import benchmarks.gpu
import bertsmith
from benchmarks.gpu import sides
from benchmarks.gpu.kit import CORPORA, KIT
from benchmarks.gpu.sides import CASES, OURS, SIDES, Case
from benchmarks.report import versions
from bertsmith.architectures import architecture_of
from bertsmith.hardware.device import deterministic, wait_for
from bertsmith.hardware.rate import matrix_product_rate
from bertsmith.training.estimate import Machine, estimate

RESULTS = Path(__file__).parents[1] / "results" / "gpu.md"
_WORST = 0.02
"""Largest relative error, by norm, of all gradients of three layers in bfloat16."""
_CHECKED = ("base-512", "base-128", "modern-base-512")


class Found:
    """Lines of JSON, each on disk as soon as it is known."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def add(self, kind: str, **figures: Any) -> None:
        """Write one line, and show it."""
        line = json.dumps({"kind": kind, **figures})
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def has(self, kind: str, **figures: Any) -> bool:
        """Whether there is such a line."""
        if not self._path.exists():
            return False
        lines = map(json.loads, self._path.read_text(encoding="utf-8").splitlines())
        wanted = {"kind": kind, **figures}
        return any(wanted.items() <= line.items() for line in lines)


def right(found: Found, device: torch.device, _: argparse.Namespace) -> None:
    """Gradients of the compiled step against float32's; raises `SystemExit` if they are wrong."""
    for name in _CHECKED:
        case = Case.load(name, CORPORA, device, 1, num_hidden_layers=3, batch_size=64)
        expected = sides.gradients(case, "float32")
        for way in ("eager", "compiled"):
            torch._dynamo.reset()
            own = sides.gradients(case, way)
            differences = [(a - b).norm() for a, b in zip(own, expected, strict=True)]
            whole = torch.stack([gradient.norm() for gradient in expected]).norm()
            error = float(torch.stack(differences).norm() / whole)
            found.add("right", case=name, way=way, error=error)
            if not error < _WORST:
                raise SystemExit(f"Wrong: gradients of {name}, {way}, are off by {error:.1%}.")
    found.add("all right", code=_code(), **_machine(device))


def _machine(device: torch.device) -> dict[str, str]:
    return {"device": torch.cuda.get_device_name(device), "versions": versions()}


def _code() -> str:
    """A digest of the package: what was found right of another is not known of this one."""
    files = sorted(Path(bertsmith.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def ceilings(found: Found, device: torch.device, options: argparse.Namespace) -> None:
    """Matrix products of the shapes that `base` at 512 has, FLOP/s."""
    tokens, hidden, inner, vocabulary, masked = 2**17, 768, 3072, 30528, 19584
    shapes = {
        "qkv": (tokens, hidden, 3 * hidden),
        "attention output": (tokens, hidden, hidden),
        "intermediate": (tokens, hidden, inner),
        "output": (tokens, inner, hidden),
        "gradient of intermediate": (hidden, tokens, inner),
        "vocabulary": (masked, hidden, vocabulary),
    }
    for name, (rows, inside, columns) in shapes.items():
        left = torch.randn(rows, inside, device=device, dtype=torch.bfloat16)
        other = torch.randn(inside, columns, device=device, dtype=torch.bfloat16)
        torch.mm(left, other)
        times = []
        for _ in range(options.steps):
            wait_for(device)
            began = time.perf_counter()
            torch.mm(left, other)
            wait_for(device)
            times.append(time.perf_counter() - began)
        rate = 2 * rows * inside * columns / statistics.median(times)
        found.add("ceiling", name=name, shape=[rows, inside, columns], flops_per_second=rate)


def speed(found: Found, device: torch.device, options: argparse.Namespace) -> None:
    """All sides of the cases, in turns; not before it is known that the steps are right."""
    ends = time.monotonic() + 60 * options.minutes
    if not found.has("all right", code=_code(), **_machine(device)):
        right(found, device, options)
    for name in options.cases:
        case = Case.load(name, CORPORA, device, options.steps)
        work = [
            architecture_of(case.config.model.architecture).training_flops(
                case.config.model, case.prepared.tokenizer.vocab_size, batch
            )
            for batch in case.batches
        ]
        tokens = sum(batch.num_tokens for batch in case.batches)
        counted = estimate(case.config, Machine(kind="cuda")).memory.total
        found.add(
            "case",
            case=name,
            **_machine(device),
            parameters=sum(p.numel() for p in case.model().parameters()),
            batch_size=case.config.training.batch_size,
            mean_length=tokens / case.config.training.batch_size / len(work),
            filler=sides.fixed_batches(case).filler(len(case.batches)),
            estimated_bytes=counted,
        )
        steps: dict[str, Callable[[int], Any]] = {}
        for side in options.sides:
            if time.monotonic() > ends:
                return
            steps[side] = _first(found, case, side, device)
        for _ in range(options.rounds):
            peak = matrix_product_rate(device, torch.bfloat16)
            for side, step in steps.items():
                if time.monotonic() > ends:
                    return
                seconds, host = _turn(step, len(work), device, side)
                found.add(
                    "turn",
                    case=name,
                    side=side,
                    sequences_per_second=case.config.training.batch_size * len(work) / seconds,
                    tokens_per_second=tokens / seconds,
                    milliseconds_a_step=1e3 * seconds / len(work),
                    host_milliseconds_a_step=1e3 * host / len(work),
                    flops_per_second=sum(work) / seconds,
                    peak_flops_per_second=peak,
                )
        for side in set(options.profile) & set(steps):
            (KIT / f"profile-{name}-{side}.txt").write_text(_profile(steps[side], device))
        del steps
        _forget()


def _first(found: Found, case: Case, side: str, device: torch.device) -> Callable[[int], Any]:
    """A side's step, warm; its first one is compiled. Seconds have what a peer tried in vain."""
    _forget()
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    began = time.perf_counter()
    with deterministic(device) if side in OURS else nullcontext():
        step = getattr(sides, side)(case)
        step(0)
        wait_for(device)
        first = time.perf_counter() - began
        for number in range(1, len(case.batches)):
            step(number)
        wait_for(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    found.add("first", case=case.name, side=side, first_step_seconds=first, peak_bytes=peak)
    return step


def _turn(
    step: Callable[[int], Any], steps: int, device: torch.device, side: str
) -> tuple[float, float]:
    """Seconds of some steps, and of the host until all were given to the device."""
    with deterministic(device) if side in OURS else nullcontext():
        wait_for(device)
        began = time.perf_counter()
        for number in range(steps):
            step(number)
        host = time.perf_counter() - began
        wait_for(device)
        return time.perf_counter() - began, host


def _profile(step: Callable[[int], Any], device: torch.device) -> str:
    with profile(activities=[ProfilerActivity.CUDA]) as measured:
        for number in range(2):
            step(number)
        wait_for(device)
    return measured.key_averages().table(
        sort_by="self_cuda_time_total", row_limit=40, max_name_column_width=100
    )


def _forget() -> None:
    gc.collect()
    torch.cuda.empty_cache()


STAGES = {"right": right, "ceilings": ceilings, "speed": speed}


def main() -> None:
    """Run one stage, or write the tables of what was found."""
    parser = argparse.ArgumentParser(
        description=benchmarks.gpu.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=[*STAGES, "report"])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side")
    parser.add_argument("--steps", type=int, default=8, help="steps a turn")
    parser.add_argument("--minutes", type=float, default=9.0, help="a stage ends after so many")
    parser.add_argument("--profile", nargs="*", default=[], choices=list(SIDES))
    parser.add_argument("--found", type=Path, default=KIT / "found.jsonl")
    options = parser.parse_args()
    if options.stage == "report":
        from benchmarks.gpu.tables import tables

        lines = options.found.read_text(encoding="utf-8").splitlines()
        RESULTS.write_text(tables([json.loads(line) for line in lines]), encoding="utf-8")
        return
    if not torch.cuda.is_available():
        raise SystemExit("There must be a CUDA GPU; there is none.")
    STAGES[options.stage](Found(options.found), torch.device("cuda"), options)


if __name__ == "__main__":
    main()
