"""What a bare machine with a GPU lacks: `python -m benchmarks.gpu.kit` makes `.gpu/`.

Two token stores of WikiText-2, and wheels of the dependencies that are named. There:

    pip install --no-index --no-deps .gpu/wheels/*.whl
    pip install --no-index --no-deps --no-build-isolation -e .
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bertsmith import prepare

KIT = Path(".gpu")
CORPORA = {"word": KIT / "word", "wordpiece": KIT / "wordpiece"}
_USUALLY_MISSING = (
    "backports.zstd cloudpickle docstring_parser loky msgspec pathlib_abc platformdirs rensa "
    "sentencex tomli_w typeguard tyro universal_pathlib"
).split()


def main() -> None:
    """Make the stores and fetch the wheels."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", default="wikitext-2", help="a name or a path")
    parser.add_argument("--python", default="3.12", help="version of the machine's Python")
    parser.add_argument("--packages", nargs="*", default=_USUALLY_MISSING)
    options = parser.parse_args()
    for kind, folder in CORPORA.items():
        prepare(options.corpus, output=folder, tokenizer=kind, overwrite=True)
    pinned = {
        line.split("==")[0].lower(): line
        for line in Path("constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line
    }
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in (17, 27, 28, 34)] + [
        "manylinux2014_x86_64",
        "manylinux1_x86_64",
    ]
    for package in options.packages:
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"),
                *("--only-binary=:all:", "--implementation", "cp"),
                *("--python-version", options.python, "--dest", str(KIT / "wheels")),
                *(part for platform in platforms for part in ("--platform", platform)),
                pinned.get(package.lower(), package),
            ],
            check=True,
        )


if __name__ == "__main__":
    main()
