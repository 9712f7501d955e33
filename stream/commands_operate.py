"""``difffake freeze``, ``unfreeze``, ``reset``, ``forget``, ``gear``, ``batch``: what an operator tells workers."""

from __future__ import annotations

import getpass
from contextlib import closing
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from stream.console import printable
from stream.kafka_options import KafkaOptions, with_kafka
from stream.messages import Command
from stream.operate import parse_person, send_command, set_batch, withdraw_enrolment

_MAX_STREAM_BYTES, _MAX_NAME = 1024, 256

StreamOption = Annotated[str, typer.Option(help="Id of the stream.")]
PersonOption = Annotated[
    str | None, typer.Option(metavar="NAME|NUMBER", help="An enrolled name, or a number from the scores; else all.")
]
ByOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", envvar="DIFFFAKE_OPERATOR", help="Who says so; your login name by default."),
]
TopicOption = Annotated[str, typer.Option(help="Topic of enrolments and commands.")]
EnrolmentsTopic = "difffake.enrolments"


@with_kafka
def freeze(
    stream: StreamOption,
    kafka: KafkaOptions,
    person: PersonOption = None,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Hold anchors as they are: a frozen anchor never moves and never expires."""
    _command(Command.FREEZE, stream, person, by, topic, kafka)


@with_kafka
def unfreeze(
    stream: StreamOption,
    kafka: KafkaOptions,
    person: PersonOption = None,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Let frozen anchors move again."""
    _command(Command.UNFREEZE, stream, person, by, topic, kafka)


@with_kafka
def reset(
    stream: StreamOption,
    kafka: KafkaOptions,
    person: PersonOption = None,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Drop anchors that were collected from the stream and collect them anew."""
    _command(Command.RESET, stream, person, by, topic, kafka)


@with_kafka
def forget(
    stream: StreamOption,
    kafka: KafkaOptions,
    person: PersonOption = None,
    enrolment: Annotated[
        bool, typer.Option("--enrolment", help="Take the person's enrolment back, so that no worker has it any more.")
    ] = False,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Forget people of a stream, or with --enrolment, take an enrolment back."""
    if not enrolment:
        _command(Command.FORGET, stream, person, by, topic, kafka)
        return
    who = parse_person(person)
    if not isinstance(who, str):
        raise typer.BadParameter("--enrolment needs --person NAME: whoever is enrolled has a name")
    by = operator(by)
    check_names(stream, who)
    with closing(kafka.broker()) as broker:
        withdraw_enrolment(broker, topic, stream=stream, person=who, by=by)
    print_line(f"{who} on {stream}: enrolment withdrawn")


class GearChoice(StrEnum):
    """How closely an operator wants a stream to be looked at."""

    WATCH = "watch"
    ANALYSE = "analyse"
    SCRUTINISE = "scrutinise"
    DEFAULT = "default"


@with_kafka
def gear(
    choice: Annotated[
        GearChoice,
        typer.Argument(
            help="watch: key frames only; analyse; scrutinise: many frames a second; default: as the workers."
        ),
    ],
    stream: StreamOption,
    kafka: KafkaOptions,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Say how closely a stream is looked at while nothing is suspicious."""
    command = Command(f"gear-{choice.value}")
    by = operator(by)
    check_names(stream, None)
    with closing(kafka.broker()) as broker:
        record = send_command(broker, topic, command, stream=stream, person=None, by=by)
    print_line(f"{stream}: gear {choice.value}, sent as {record.id}")


@with_kafka
def batch(
    kafka: KafkaOptions,
    size: Annotated[int | None, typer.Option(min=1, max=1024, help="Most frames in one run of the networks.")] = None,
    deadline: Annotated[
        float | None, typer.Option(min=0, max=10, help="Longest wait of a frame for company in it, s.")
    ] = None,
    default: Annotated[bool, typer.Option("--default", help="Both as each worker was started.")] = False,
    by: ByOption = None,
    topic: TopicOption = EnrolmentsTopic,
) -> None:
    """Say how workers put the batches of their networks together: all of them, at once, and those that start later.

    What is not given is as each worker was started (`difffake work --batch`, `--batch-deadline`). Larger batches cost
    less by frame on a GPU; a longer deadline fills them and makes scores later.
    """
    if default == (size is not None or deadline is not None):
        raise typer.BadParameter("give --size, --deadline or both; or --default alone")
    by = operator(by)
    with closing(kafka.broker()) as broker:
        record = set_batch(broker, topic, size=size, deadline_s=deadline, by=by)
    frames = "as started" if size is None else str(size)
    wait = "as started" if deadline is None else f"{deadline:g} s"
    print_line(f"batches of all workers: size {frames}, deadline {wait}; sent as {record.id}")


def operator(by: str | None) -> str:
    """Who gives the command: the name that was given, or that of the login."""
    if by is None:
        try:
            by = getpass.getuser()
        except (OSError, KeyError) as error:  # a container whose user has no name
            raise typer.BadParameter("who are you? Give --by NAME") from error
    if not 0 < len(by) <= _MAX_NAME or not by.isprintable():
        raise typer.BadParameter(f"--by: give 1 to {_MAX_NAME} printable characters")
    return by


def _command(
    command: Command, stream: str, person: str | None, by: str | None, topic: str, kafka: KafkaOptions
) -> None:
    who, by = parse_person(person), operator(by)
    check_names(stream, who)
    with closing(kafka.broker()) as broker:
        record = send_command(broker, topic, command, stream=stream, person=who, by=by)
    whom = "everybody" if who is None else f"person {who}" if isinstance(who, int) else who
    print_line(f"{command.value} {whom} on {stream}: sent as {record.id}")


def check_names(stream: str, person: int | str | None) -> None:
    """Refuse names beyond their bounds."""
    if not 0 < len(stream.encode(errors="replace")) <= _MAX_STREAM_BYTES:
        raise typer.BadParameter(f"--stream: give 1 to {_MAX_STREAM_BYTES} bytes")
    if isinstance(person, str) and not 0 < len(person) <= _MAX_NAME:
        raise typer.BadParameter(f"--person: give 1 to {_MAX_NAME} characters")
    if isinstance(person, int) and person >= 1 << 31:
        raise typer.BadParameter("--person: no score has such a number")


def print_line(line: str) -> None:
    """A line that may hold anything, safe for a terminal."""
    Console().print(Text(printable(line)), soft_wrap=True)
