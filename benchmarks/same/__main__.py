"""Whether the training path computes what it did at an earlier revision, byte for byte.

    python -m benchmarks.same REVISION

REVISION is checked out into a temporary folder. The command line of both sides, the revision and
the working tree, then makes the same short runs (`benchmarks/same/cases.py`): the two of a case at
the same time, with one thread a process, on the text of the revision's docs. All files are
compared but for times, rates and memory (`benchmarks/same/compare.py`).

Exit status: 0 if all cases are identical; 1 if one differs, fails, or has a flag that a side does
not know.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.same.cases import CASES
from benchmarks.same.compare import IGNORED_FIELDS, differences, files_of
from benchmarks.same.sides import Side, check_import, check_out, run_case

ROOT = Path(__file__).parents[2]


def main() -> None:
    """Compare, print a line for each case and what differs in it, and leave with the status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.same", description=__doc__.splitlines()[0]
    )
    parser.add_argument("revision", help="what the working tree is compared with, as git names it")
    parser.add_argument(
        "--cases", nargs="+", choices=CASES, default=list(CASES), help="which; default: all"
    )
    options = parser.parse_args()
    # Both end the processes and remove the folder; a shell may have begun this with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="bertsmith-same-") as work:
            others = compare(options.revision, options.cases, Path(work).resolve())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    verdict = f"not identical: {', '.join(others)}" if others else "all identical"
    print(f"{len(options.cases)} cases, {verdict} ({time.monotonic() - began:.0f} s)")
    sys.exit(bool(others))


def compare(revision: str, names: Sequence[str], work: Path) -> list[str]:
    """Compare the working tree with a revision, in an empty folder.

    Returns:
        The names of the cases that are not identical.

    Raises:
        SystemExit: the revision cannot be checked out, or is not what would be imported.
    """
    commit = check_out(ROOT, revision, work / "revision")
    write_input(work / "revision" / "docs", work / "input")
    sides = (
        Side(commit[:10], work / "revision", work / "before"),
        Side("working tree", ROOT, work / "after"),
    )
    for side in sides:
        check_import(side)
    print(f"{sides[0].name} (was) and the {sides[1].name} (is)", flush=True)
    return asyncio.run(compare_cases(names, *sides))


def write_input(docs: Path, folder: Path) -> None:
    """What all cases read: a corpus of the docs, and tables of their paragraphs, by file."""
    tables: dict[str, list[str]] = {"train": [], "validation": []}
    for path in sorted(docs.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        copy = folder / "text" / path.relative_to(docs).with_suffix(".txt")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(text, encoding="utf-8")
        for number, paragraph in enumerate(text.split("\n\n")):
            row = json.dumps({"text": " ".join(paragraph.split()), "label": path.stem})
            tables["validation" if number % 4 == 3 else "train"].append(row)
    for name, rows in tables.items():
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


async def compare_cases(names: Sequence[str], before: Side, after: Side) -> list[str]:
    """Run cases on both sides and say what came of each.

    Returns:
        The names of those that are not identical.
    """
    others = []
    for name in names:
        began = time.monotonic()
        async with asyncio.TaskGroup() as group:
            runs = [group.create_task(run_case(name, side)) for side in (before, after)]
        errors = [error for error in (run.result() for run in runs) if error]
        found = errors or case_differences(name, before, after)
        num_files, seconds = len(files_of(after.files(name))), time.monotonic() - began
        is_same = "not identical" if found else "identical"
        print(f"{name}: {is_same} ({num_files} files, {seconds:.0f} s)", flush=True)
        for line in found:
            print("  " + line.replace("\n", "\n    "), flush=True)
        if found:
            others.append(name)
    return others


def case_differences(name: str, before: Side, after: Side) -> list[str]:
    """What differs between the sides, and between two folders of one that must be alike."""
    case = CASES[name]
    ignored = IGNORED_FIELDS | case.ignored
    found = differences(before.files(name), after.files(name), ignored=ignored)
    if case.alike:
        one, other = case.alike
        for side in (before, after):
            files = side.files(name)
            changes = differences(files / one, files / other, ignored=ignored)
            found += [f"{side.name}, {one} (was), {other} (is): {change}" for change in changes]
    return found


if __name__ == "__main__":
    main()
