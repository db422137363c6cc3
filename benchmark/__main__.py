"""`python -m benchmark`: one run, with a flag for each field of `RunConfig` and of `Options`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import tyro

from benchmark import initial, registry
from benchmark.cli import fail, guarded, parse
from benchmark.config import RunConfig
from benchmark.errors import UserError
from benchmark.options import Options
from benchmark.outside import NOUNS, look_in
from benchmark.schedule import schedule
from benchmark.tracking.tracker import under_agent

DESCRIPTION = (
    "Train one net, prune it on the way, and record loss, accuracy and gradient flow.\n\n"
    f"Measures: {', '.join(registry.names('measures'))}.\n\n"
    f"Architectures: {', '.join(registry.names('models'))}, torchvision:NAME.\n\n"
    f"Data sets: {', '.join(registry.names('data'))}:PATH."
)
RESOLVED = {f"--{noun}": partial(registry.resolve, kind) for kind, noun in NOUNS.items()}
RESOLVED["--init"] = initial.resolve
"""{flag that names a file: what gives the name by which a run knows it}"""


@dataclass(frozen=True)
class Command:
    config: tyro.conf.OmitArgPrefixes[RunConfig] = field(default_factory=RunConfig)
    options: tyro.conf.OmitArgPrefixes[Options] = field(default_factory=Options)


def main(argv: Sequence[str] | None = None, prog: str = "python -m benchmark") -> None:
    try:
        arguments = resolved(from_agent(sys.argv[1:] if argv is None else argv))
        if not arguments and not under_agent():
            arguments = ["--help"]
    except UserError as error:
        fail(error)
    command = parse(Command, prog, DESCRIPTION, arguments)
    guarded(lambda: execute(command.config, command.options))


def from_agent(arguments: Iterable[str]) -> list[str]:
    """Translate the arguments that `wandb agent` passes to those of this command.

    The agent passes booleans as `--score_all=True`. To a run that it repeats it passes the whole
    configuration, which has more entries than a run has fields: `--_wandb={...}`, `--run_id=...`,
    `--cell=...`, `--rules=...`.
    """
    ours = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if value in ("True", "False"):
            ours.append(name if value == "True" else f"--no-{name.removeprefix('--')}")
        elif not name.startswith("--_wandb") and not (
            under_agent() and name in ("--run_id", "--cell", "--rules")
        ):
            ours.append(argument)
    return ours


def resolved(arguments: list[str]) -> list[str]:
    """The arguments with the names of files as a run knows them: those of components from outside,
    and the digest of the initial weights.

    Raises `UserError` for a file that cannot be read.
    """
    ours, flag = [], ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name_of := RESOLVED.get(flag):
            ours.append(name_of(argument))
        elif equals and (name_of := RESOLVED.get(name)):
            ours.append(f"{name}={name_of(value)}")
        else:
            ours.append(argument)
        flag = argument if not RESOLVED.get(flag) else ""
    return ours


def first_line(config: RunConfig, options: Options) -> str:
    """What is run, and how."""
    epochs, threads = (
        f"{number} {noun}{'s' if number > 1 else ''}"
        for number, noun in ((schedule(config).total, "epoch"), (options.threads, "thread"))
    )
    return (
        f"run {config.run_id}: {config.label}, {epochs} on {options.device_name()} with {threads}, "
        f"record in {options.runs / config.run_id}"
    )


def execute(config: RunConfig, options: Options) -> None:
    look_in(options.runs)
    config.check_components()
    options.prepare()
    print(first_line(config.canonical(), options), flush=True)
    from benchmark.run import Part, Progress, run  # here, so that --help needs no torch

    def part(part: Part) -> None:
        print(
            f"epoch {part.epoch:>3}/{part.total}  {part.images:,} of {part.of:,} images", flush=True
        )

    def watch(progress: Progress) -> None:
        row = progress.row
        print(
            f"epoch {row['epoch']:>3}/{progress.total}  train loss {row['train/loss']:.4f}  "
            f"test accuracy {row['test/accuracy']:.2%}  lr {row['lr']:g}  "
            f"{row['time/images_per_second']:.0f} images/s"
        )

    summary = run(config, options, watch, part)
    print(
        f"{config.canonical().label}: {summary['outcome']}, "
        f"test accuracy {summary['test/accuracy']:.2%}, "
        f"{summary['net/params']:,} parameters; record in {options.runs / config.run_id}"
    )


if __name__ == "__main__":
    main()
