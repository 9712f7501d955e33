"""The commands by name. A command's module, and whatever networks or brokers it needs, is loaded when it is called."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

import typer.main
from typer.core import TyperCommand, TyperGroup, TyperOption


class Entry(NamedTuple):
    """Where a command is found: a function or a `typer.Typer`; ``summary`` begins its help."""

    module: str
    attribute: str
    summary: str


#: In the order in which they are told.
COMMANDS: dict[str, Entry] = {
    "scan": Entry("commands_scan", "scan", "Scan videos and images, and say what the evidence is"),
    "enroll": Entry("commands_enroll", "enroll", "Enrol a person from trusted footage"),
    "anchors": Entry("commands_enroll", "show_anchors", "Show who is enrolled in an anchor file"),
    "publish": Entry("commands_publish", "publish", "Publish video to Kafka without re-encoding it"),
    "work": Entry("commands_work", "work", "Score the streams of input topics"),
    "tail": Entry("commands_tail", "tail", "Watch scores and alerts"),
    "wall": Entry("commands_wall", "wall", "Serve the live wall"),
    "replay": Entry("commands_replay", "replay_command", "Score a frame again from the input that its score names"),
    "freeze": Entry("commands_operate", "freeze", "Hold anchors as they are"),
    "unfreeze": Entry("commands_operate", "unfreeze", "Let frozen anchors move again"),
    "reset": Entry("commands_operate", "reset", "Drop anchors that were collected from the stream"),
    "forget": Entry("commands_operate", "forget", "Forget people of a stream"),
    "gear": Entry("commands_operate", "gear", "Say how closely a stream is looked at"),
    "batch": Entry("commands_operate", "batch", "Say how workers put the batches of their networks together"),
    "alerts": Entry("commands_alerts", "app", "Alerts of a stream: budget, mute, acknowledge"),
    "hooks": Entry("commands_hooks", "hooks", "Post alerts to a receiver"),
    "demo": Entry("commands_demo", "demo", "Watch two streams, one with another face over half of it"),
    "doctor": Entry("commands_doctor", "doctor", "Say what this host has, which engine runs the networks"),
    "bench": Entry("commands_bench", "bench", "Measure what this host can do with a model, without Kafka"),
    "evaluate": Entry("commands_evaluate", "evaluate_command", "Score a data set of real and manipulated video"),
    "robustness": Entry(
        "commands_robustness",
        "robustness_command",
        "Judge a data set again after each of many things that streams do to pictures",
    ),
    "compare": Entry("commands_evaluate", "compare_command", "Hold two evaluation reports side by side"),
    "adapt": Entry("commands_adapt", "adapt_command", "Fit a small supervised head on labelled footage"),
    "crops": Entry("commands_train", "crops", "Find and align the main face of every picture and clip"),
    "train-generator": Entry(
        "commands_train", "train_generator", "Train the face generators that draw two families of pseudo-fakes"
    ),
    "train": Entry("commands_train", "train", "Train an extractor on real faces against pseudo-deepfakes"),
    "fit": Entry("commands_train", "fit", "Fit densities and calibration on people kept out of training"),
    "fit-identity": Entry("commands_identity", "fit_identity", "Fit how far real people get from their own anchors"),
    "contact-sheet": Entry("commands_train", "contact_sheet", "Draw 32 pseudo-fakes of each family"),
}


class StrictCommand(TyperCommand):
    """A command whose options, told without their values, do not take the next option for one (and write to a file of
    that name). A value that begins with two dashes is told as ``--option=--value``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """See `typer`."""
        options = [option for option in self.params if isinstance(option, TyperOption)]
        wanting = {name: option for option in options if not (option.is_flag or option.count) for name in option.opts}
        names = {name for option in options for name in (*option.opts, *option.secondary_opts)}
        for told, following in pairwise(takewhile(lambda argument: argument != "--", args)):
            if told in wanting and (following.startswith("--") or following in names):
                raise typer.BadParameter(
                    f"needs a value, and {following} looks like an option; if it is the value: {told}={following}",
                    ctx=ctx,
                    param=wanting[told],
                )
        return super().parse_args(ctx, args)


class _Loaded(Mapping[str, Any]):
    """Name -> command, loaded as it is looked up."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


@cache
def _load(name: str) -> Any:
    entry = COMMANDS[name]
    found = getattr(import_module(f"stream.{entry.module}"), entry.attribute)
    if isinstance(found, typer.Typer):
        for command in found.registered_commands:
            command.cls = StrictCommand
        return typer.main.get_group(found)
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=StrictCommand)(found)
    return typer.main.get_command(alone)


class Commands(TyperGroup):
    """All commands; their list in the help loads none of them."""

    def __init__(self, **told: Any) -> None:
        super().__init__(**told)
        self.commands = _Loaded()  # type: ignore[assignment]  # nobody adds to it

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Their names."""
        return list(self.commands)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write them and their summaries into a help page."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])
