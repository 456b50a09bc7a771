"""The command line: one command, one dataclass of flags, one function.

Exit status: 0; 1 for something the user can mend, in one line on standard error; 2 for wrong flags;
130 when interrupted. A run that a signal stopped after its checkpoint leaves with 0, or with 143
after SIGTERM (129 after SIGHUP): a container's host or a scheduler must not take it for finished.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

import tyro

from bertsmith.cli import estimate, finetune, prepare, pretrain, use
from bertsmith.cli.arguments import registry
from bertsmith.config import BUDGETS
from bertsmith.errors import BertsmithError, RunStopped, SaidElsewhere
from bertsmith.ranks import rank

_ABOUT = "Pretrain BERT encoders from scratch on your own text, and use them."

_COMMANDS: dict[str, tuple[type, Any]] = {
    "pretrain": (pretrain.Pretrain, pretrain.run),
    "prepare": (prepare.Prepare, prepare.run),
    "encode": (use.Encode, use.encode),
    "fill": (use.Fill, use.fill),
    "next": (use.Next, use.next_sentence),
    "similar": (use.Similar, use.similar),
    "evaluate": (use.Evaluate, use.evaluate),
    "finetune": (finetune.Finetune, finetune.finetune),
    "probe": (finetune.Probe, finetune.probe),
    "estimate": (estimate.EstimateCommand, estimate.estimate),
    "corpora": (use.Corpora, use.corpora),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit status.

    Args:
        arguments: without the program's name; default: those of the process.
    """
    warnings.showwarning = _show_warning
    try:
        _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except SaidElsewhere:
        _leave(1)
    except BertsmithError as error:
        of_rank = f"rank {rank()}: " if rank() else ""
        _leave(1, f"bertsmith: error: {of_rank}{error}")
    except RunStopped as stopped:
        for number in ("SIGTERM", "SIGUSR1", "SIGHUP"):  # the status is settled
            signal.signal(getattr(signal, number, signal.SIGTERM), signal.SIG_IGN)
        asked = stopped.by.name in ("SIGINT", "SIGUSR1")
        _leave(0 if asked else 128 + stopped.by, "" if rank() else f"bertsmith: {stopped}")
    except KeyboardInterrupt:
        _leave(130, "bertsmith: interrupted; nothing is half-written; the same command may go on.")
    except BrokenPipeError:  # the reader of a pipe left, as `head` does
        pass
    _leave(0)


def _leave(status: int, last_words: str = "") -> NoReturn:
    """Leave with this status, whether or not anybody reads what was printed."""
    with contextlib.suppress(OSError):
        if last_words:
            print(last_words, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # what is left would be tried again at the end, and change the status
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def _run(arguments: list[str]) -> None:
    name = arguments[0] if arguments else ""
    if name not in _COMMANDS:
        # Builds the list of commands for --help, and says what is wrong with anything else.
        commands: dict[str, Any] = {known: cls for known, (cls, _) in _COMMANDS.items()}
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="bertsmith",
            description=_ABOUT,
            args=arguments or ["--help"],
            registry=registry,
        )
        return
    cls, run = _COMMANDS[name]
    parse: dict[str, Any] = {
        "prog": f"bertsmith {name}",
        "args": arguments[1:],
        "registry": registry,
    }
    if name not in ("pretrain", "prepare", "estimate"):
        run(tyro.cli(cls, **parse))
        return
    if name == "pretrain":
        _refuse_two_budgets(arguments[1:])
    base = pretrain.parse_base(arguments[1:])
    if name == "prepare":
        run(tyro.cli(cls, default=prepare.defaults(base), **parse), base)
    elif name == "estimate":
        run(tyro.cli(cls, default=estimate.defaults(base), **parse))
    else:
        run(tyro.cli(cls, default=pretrain.defaults(base), **parse), base)


def _refuse_two_budgets(arguments: list[str]) -> None:
    given = [flag for flag in arguments if flag.partition("=")[0].removeprefix("--") in BUDGETS]
    flags = sorted({flag.partition("=")[0] for flag in given if flag.startswith("--")})
    if len(flags) > 1:
        print(f"bertsmith: a run has one budget; got {' and '.join(flags)}.", file=sys.stderr)
        sys.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"bertsmith: {message}", file=sys.stderr)
