"""Runs `bertsmith` in forked children: one JSON object in, two out, a line each.

In:  {"arguments": […], "log": file, "under": folder, "at": number, "error": errno or -1 to kill,
      "alarm": seconds until death, or 0, "streams": {descriptor: "closed", "left" for a pipe whose
      reader left, an encoding, or a path}}
Out: {"pid": …} when it has begun; {"status": exit status, negative for a signal, "kilobytes": the
      most memory it held} when it has ended.
A count of the system calls under the folder is the last line of the log of a child that lived.

Libraries are loaded once, before the first fork, and nothing is computed here: PyTorch's threads
must begin in the child.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch._dynamo  # what PyTorch's optimizers import on their first use

import bertsmith.reporting.curves
from bertsmith.cli.main import main
from bertsmith.training import closing
from tests.support.runs import blank

# What takes most of the time of so small a run, and is no matter here.
vars(closing)["matrix_product_rate"] = lambda device, dtype: 1e15
vars(bertsmith.reporting.curves)["draw_curves"] = blank


def run(job: dict[str, Any]) -> None:
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for number, kind in job["streams"].items():
        spoil(int(number), kind)
    status = 99
    faults = ctypes.CDLL(None)
    faults.faults_arm(ctypes.c_long(job["at"]), job["error"], os.fsencode(job["under"]))
    # Whatever started the tests may ignore them, as a shell does for what runs in its background.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if job["alarm"]:
        signal.setitimer(signal.ITIMER_REAL, job["alarm"])
    try:
        warnings.simplefilter("ignore")
        main(job["arguments"])
    except SystemExit as leaving:
        status = int(leaving.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        count = faults.faults_seen()
        with Path(job["log"]).open("a") as log_stream:
            log_stream.write(f"\ncalls {count}\n")
        os._exit(status)


def spoil(number: int, kind: str) -> None:
    """Make standard output (1) or error (2) one of those that programs are started with."""
    name = {1: "stdout", 2: "stderr"}[number]
    if kind == "closed":
        os.close(number)
        setattr(sys, name, None)  # as Python finds it
    elif kind == "left":
        reading, writing = os.pipe()
        os.dup2(writing, number)
        os.close(reading)
        os.close(writing)
    elif kind.startswith("/"):
        os.dup2(os.open(kind, os.O_WRONLY), number)
    else:
        getattr(sys, name).reconfigure(encoding=kind, errors="strict")


def serve() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        pid = os.fork()
        if not pid:
            run(job)
        print(json.dumps({"pid": pid}), flush=True)
        _, status, usage = os.wait4(pid, 0)
        exit_status = os.waitstatus_to_exitcode(status)
        print(json.dumps({"status": exit_status, "kilobytes": usage.ru_maxrss}), flush=True)


if __name__ == "__main__":
    assert torch._dynamo
    serve()
