"""What is run on both sides: short runs that together go through the training path.

Not among them, since the tests have them: losses that diverge and rollbacks, budgets in minutes
(which no two runs spend alike), CUDA.
"""

from __future__ import annotations

from dataclasses import dataclass

INPUT = "../../../input"
"""Where text and tables lie, from the folder that a case runs in: the same for both sides."""

_RUN = (
    f"--corpus {INPUT}/text --documents file --paragraphs empty-line --max-length 32 "
    "--batch-size 16 --micro-batch 160 --num-hidden-layers 2 --hidden-size 32 "
    "--intermediate-size 64 --num-attention-heads 2 --hidden-dropout-prob 0.1 "
    "--attention-probs-dropout-prob 0.1 --max-grad-norm 0.5 --log-every 2 --validate-every 5 "
    "--checkpoint-every 4 --device cpu --quiet"
)
_SENTENCES = ("a checkpoint is written by a thread .", "the run goes on from it .")


@dataclass(frozen=True)
class Command:
    """One call of `bertsmith`.

    Args:
        arguments: its arguments.
        ranks: how many processes; from two on under PyTorch's launcher.
        is_killed: whether SIGKILL ends it after the first checkpoint of its folder `run`.
        output: the file that its standard output goes to, to be compared; None: it is not.
    """

    arguments: tuple[str, ...]
    ranks: int = 1
    is_killed: bool = False
    output: str | None = None


@dataclass(frozen=True)
class Case:
    """Commands in a folder of their own, whose files are compared afterwards.

    Args:
        commands: one after the other.
        alike: two folders of each side that must be the same, too.
        ignored: fields that are left out of the comparison beside `IGNORED_FIELDS`.
    """

    commands: tuple[Command, ...]
    alike: tuple[str, str] | None = None
    ignored: frozenset[str] = frozenset()


def _pretrain(
    flags: str,
    *,
    folder: str = "run",
    steps: int = 12,
    ranks: int = 1,
    is_killed: bool = False,
    precision: str = "float32",
) -> Command:
    arguments = f"pretrain --output {folder} --steps {steps} --precision {precision} {_RUN} {flags}"
    return Command(tuple(arguments.split()), ranks=ranks, is_killed=is_killed)


_WORDS = "--tokenizer word --min-frequency 2"
_PIECES = "--tokenizer wordpiece --vocab-size 1000"
_RESUMED = (
    f"--optimizer muon --objective mlm+nsp --pairing filled {_WORDS} "
    "--log-every 3 --validate-every 20 --checkpoint-every 10"
)
_RESUMED_STEPS = 60
"""Enough for a SIGKILL to come before the last one."""

CASES = {
    "muon": Case((_pretrain(f"--optimizer muon --objective mlm+nsp --pairing adjacent {_WORDS}"),)),
    "adamw": Case(
        (
            _pretrain(
                f"--optimizer adamw --objective mlm+nsp --pairing filled --recompute {_PIECES} "
                "--masking whole-word --hidden-act gelu --lr-scheduler-type cosine"
            ),
        )
    ),
    "adam": Case(
        (
            _pretrain(
                f"--optimizer adam --objective mlm {_PIECES} --masking span --mlm-bias-init zero "
                "--attention-init normal --micro-batch auto --max-grad-norm 0"
            ),
        )
    ),
    "bfloat16": Case(
        (_pretrain(f"--optimizer muon --objective mlm {_WORDS}", precision="bfloat16"),)
    ),
    "ddp": Case(
        (
            _pretrain(
                f"--parallel ddp --optimizer adamw --objective mlm+nsp --pairing adjacent {_WORDS}",
                ranks=2,
            ),
        )
    ),
    "fsdp": Case(
        (_pretrain(f"--parallel fsdp --optimizer muon --objective mlm {_PIECES}", ranks=2),)
    ),
    "resumed": Case(
        (
            _pretrain(_RESUMED, folder="whole", steps=_RESUMED_STEPS),
            _pretrain(_RESUMED, steps=_RESUMED_STEPS, is_killed=True),
            Command(("pretrain", "--resume", "--output", "run", "--quiet")),
        ),
        alike=("whole", "run"),
        # The sums of which rates are made: without the first step of each process.
        ignored=frozenset({"timed"}),
    ),
    "used": Case(
        (
            _pretrain(f"--optimizer adamw --objective mlm+nsp --pairing filled {_WORDS}"),
            _pretrain("--init-from run", folder="init-from", steps=4),
            Command(
                ("evaluate", "run", "--sentences", "20", "--device", "cpu", "--json"),
                output="evaluate.json",
            ),
            Command(
                ("encode", "run", *_SENTENCES, "--device", "cpu", "--json"), output="encode.json"
            ),
            Command(
                tuple(
                    (
                        f"finetune run --train {INPUT}/train.jsonl "
                        f"--validation {INPUT}/validation.jsonl --test {INPUT}/validation.jsonl "
                        "--output finetuned --epochs 1 --device cpu --precision float32 --quiet"
                    ).split()
                )
            ),
        )
    ),
}
