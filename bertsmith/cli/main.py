"""The command line: one command, one dataclass of flags, one function.

Exit status: 0; 1 for something the user can mend, in one line on standard error; 2 for wrong flags;
130 when interrupted. A run that a signal stopped after its checkpoint leaves with 0, or with 143
after SIGTERM (129 after SIGHUP): a container's host or a scheduler must not take it for finished.

Who reads standard output or error changes neither what is done nor the status: both may be closed,
on a full disk, or a pipe whose reader left. One exception: a command that gives nothing but what it
prints (all but `pretrain` and those with --output) leaves with 1 where standard output refuses it,
as a full disk does.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

import tyro

from bertsmith import __version__
from bertsmith.cli import (
    branch,
    estimate,
    evaluate,
    export,
    finetune,
    playground,
    prepare,
    pretrain,
    report,
    use,
    vectors,
)
from bertsmith.cli.arguments import registry
from bertsmith.cli.settings import asks_for_help, changes, defaults, layers_named
from bertsmith.config import BUDGETS
from bertsmith.display import show
from bertsmith.errors import BertsmithError, RunStopped, SaidElsewhere, printable
from bertsmith.ranks import rank
from bertsmith.streams import standard_streams

_ABOUT = (
    "Pretrain BERT encoders from scratch on your own text, and use them. "
    "`bertsmith --version` says which Bertsmith this is."
)

_SPINS = "800"
"""Turns of a loop, some 10 µs: more cost two trainings at once, fewer one that is alone."""

_COMMANDS: dict[str, tuple[type, Any]] = {
    "pretrain": (pretrain.Pretrain, pretrain.run),
    "branch": (branch.Branch, branch.branch),
    "prepare": (prepare.Prepare, prepare.run),
    "report": (report.Report, report.report),
    "playground": (playground.Playground, playground.playground),
    "encode": (use.Encode, use.encode),
    "fill": (use.Fill, use.fill),
    "next": (use.Next, use.next_sentence),
    "similar": (use.Similar, use.similar),
    "evaluate": (evaluate.Evaluate, evaluate.evaluate),
    "search": (vectors.Search, vectors.search),
    "tag": (vectors.Tag, vectors.tag),
    "finetune": (finetune.Finetune, finetune.finetune),
    "probe": (finetune.Probe, finetune.probe),
    "export": (export.Export, export.export),
    "estimate": (estimate.EstimateCommand, estimate.estimate),
    "corpora": (use.Corpora, use.corpora),
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave with its exit status.

    Args:
        arguments: without the program's name; default: those of the process.
    """
    _yield_cores()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with standard_streams() as output:
        warnings.showwarning = _show_warning
        status = _status_of(arguments)
        output.flush()
        if output.refusal is not None:
            reason = getattr(output.refusal, "strerror", None) or output.refusal
            if _makes_files(arguments):
                _say(f"standard output did not take what was printed ({reason}).")
            elif status == 0:
                status = 1
                _say(f"error: Standard output must take the result; it did not: {reason}.")
    sys.exit(status)


def _yield_cores() -> None:
    """Let threads that wait for others give their core away soon, as other programs need.

    GNU's OpenMP, which PyTorch brings on Linux, lets them spin for milliseconds: between two
    trainings on the same cores that is nearly all of the time (benchmarks/results/busy.md). It
    reads this when torch is loaded, which is later. What the environment says wins.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def _status_of(arguments: list[str]) -> int:
    """Run the command, and say on standard error why it ended early if it did."""
    try:
        _run(arguments)
    except SystemExit as leaving:  # of the parser: help, or wrong flags
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except SaidElsewhere:
        return 1
    except BertsmithError as error:
        of_rank = f"rank {rank()}: " if rank() else ""
        _say(f"error: {of_rank}{error}")
        return 1
    except RunStopped as stopped:
        for number in ("SIGTERM", "SIGUSR1", "SIGHUP"):  # the status is settled
            signal.signal(getattr(signal, number, signal.SIGTERM), signal.SIG_IGN)
        if not rank():
            _say(str(stopped))
        return 0 if stopped.by.name in ("SIGINT", "SIGUSR1") else 128 + stopped.by
    except KeyboardInterrupt:
        _say("interrupted; nothing is half-written; the same command may go on.")
        return 130
    return 0


def _makes_files(arguments: list[str]) -> bool:
    """Whether the command leaves something else than what it prints."""
    flags = {argument.partition("=")[0] for argument in arguments}
    return arguments[:1] == ["pretrain"] or "--output" in flags


def _say(text: str) -> None:
    """Lines on standard error, with what is not visible escaped."""
    print("bertsmith: " + "\n".join(map(printable, text.split("\n"))), file=sys.stderr)


def _run(arguments: list[str]) -> None:
    name = arguments[0] if arguments else ""
    if name in ("--version", "-V"):
        show(f"bertsmith {__version__}")
        return
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
    layers = layers_named(arguments[1:])
    usual = defaults(layers, for_help=name == "pretrain" and asks_for_help(arguments))
    known = {entry.name for entry in fields(cls)}
    own = {"output": tyro.MISSING} if name == "prepare" else {}
    default = cls(**own, **{key: value for key, value in usual.items() if key in known})
    command = tyro.cli(cls, default=default, **parse)
    run(command, layers, changes(command, usual))


def _refuse_two_budgets(arguments: list[str]) -> None:
    given = [flag for flag in arguments if flag.partition("=")[0].removeprefix("--") in BUDGETS]
    flags = sorted({flag.partition("=")[0] for flag in given if flag.startswith("--")})
    if len(flags) > 1:
        _say(f"a run has one budget; got {' and '.join(flags)}.")
        sys.exit(2)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(printable(str(message)))
