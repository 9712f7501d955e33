"""``difffake publish``: files, folders, or a live address -> records on a topic."""

from __future__ import annotations

import stat
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import TextColumn
from rich.text import Text

from difffake.anchors.file import checked_name
from difffake.errors import DiffFakeError, MediaNotFoundError
from difffake.folder import left_out_in_words, media_in
from difffake.hangup import interrupted_by_signals
from stream.broker.contract import Broker, TopicSpec
from stream.broker.errors import TopicNotFoundError
from stream.console import print_error, print_note, printable, progress_bar
from stream.kafka_options import KafkaOptions, with_kafka
from stream.packets import is_address
from stream.publish import Counts, Form, Published, Publisher, PublishSettings

_S = 1_000_000_000
_MAX_FILES = 10_000
_MAX_LINES = 50


@with_kafka
@interrupted_by_signals()
def publish(
    sources: Annotated[
        list[str], typer.Argument(help="Videos, pictures, folders, or one live address (rtsp://, ...).")
    ],
    kafka: KafkaOptions,
    topic: Annotated[str, typer.Option(help="Topic to publish to.")] = "video.in",
    stream: Annotated[str | None, typer.Option(help="Id of the stream; files follow one after the other.")] = None,
    stream_from_name: Annotated[
        bool, typer.Option("--stream-from-name", help="Every file is a stream of its own, named like the file.")
    ] = False,
    as_: Annotated[
        Form, typer.Option("--as", help="What a record holds: a segment, a picture, or an access unit.")
    ] = Form.SEGMENTS,
    segment_seconds: Annotated[
        float, typer.Option(help="Least length of a segment; it ends at the next key frame.")
    ] = 2.0,
    fps: Annotated[float, typer.Option(help="Pictures per second, with --as frames.")] = 5.0,
    paced: Annotated[bool, typer.Option("--paced/--fast", help="At the speed of the video, or as fast as it goes.")] = (
        True
    ),
    loop: Annotated[int, typer.Option(min=0, help="How often; 0: until stopped.")] = 1,
    start_pts: Annotated[
        str, typer.Option(metavar="SECONDS|now", help="Time of the first picture; now: the clock's, since 1970.")
    ] = "now",
    create_topic: Annotated[
        int | None, typer.Option(min=1, metavar="PARTITIONS", help="Create the topic if it is not there.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress and no summary.")] = False,
) -> None:
    """Publish video to Kafka without re-encoding it: segments, access units, or pictures."""
    streams = _streams(sources, stream, from_name=stream_from_name)
    try:
        settings = PublishSettings(
            form=as_,
            segment_s=segment_seconds,
            fps=fps,
            paced=paced,
            loops=loop,
            start_pts_ns=_start_ns(start_pts),
            max_bytes=kafka.max_message_bytes,
        )
    except ValueError as error:
        raise typer.BadParameter("--segment-seconds, --fps and --start-pts must be positive") from error
    with closing(kafka.broker()) as broker:
        _check_topic(broker, topic, create_topic, kafka.max_message_bytes)
        publisher = Publisher(broker, topic, settings)
        last: dict[str, Published] = {}
        try:
            with publisher:
                _run(publisher, streams, last, quiet=quiet)
        finally:
            _conclude(publisher, last, quiet=quiet)
    if publisher.failures:
        raise typer.Exit(publisher.failures[0].error.exit_code)


def _run(publisher: Publisher, streams: dict[str, list[str]], last: dict[str, Published], *, quiet: bool) -> None:
    with (
        progress_bar(TextColumn("{task.fields[sent]}"), quiet=quiet) as progress,
        closing(publisher.publish_many(streams)) as records,
    ):
        names = next(iter(streams)) if len(streams) == 1 else f"{len(streams)} streams"
        task = progress.add_task(printable(names), total=None, sent="")
        for sent in records:
            last[sent.stream] = sent
            total = Counts()
            for counts in publisher.counts.values():
                total.records += counts.records
                total.bytes += counts.bytes
            progress.update(task, sent=f"{total.records} records, {total.bytes / 1e6:.1f} MB")


def _conclude(publisher: Publisher, last: dict[str, Published], *, quiet: bool) -> None:
    for failure in publisher.failures:
        print_error(failure.error)
    errors = Console(stderr=True)
    for warning in publisher.warnings:
        errors.print(Text(f"warning: {printable(warning)}", style="yellow"), soft_wrap=True)
    if quiet:
        return
    console = Console()
    for number, (stream, counts) in enumerate(publisher.counts.items()):
        if number == _MAX_LINES:
            console.print(f"  and {len(publisher.counts) - number} more streams")
            break
        line = f"{printable(stream)}: {counts.records} records, {counts.pictures} pictures, {counts.bytes / 1e6:.1f} MB"
        if stream in last:
            line += f", up to PTS {last[stream].end_ns / _S:.2f} s"
        if counts.left_out:
            line += f"; {counts.left_out} pictures left out that nothing can be decoded from"
        console.print(Text(line), soft_wrap=True)


def _check_topic(broker: Broker, topic: str, create: int | None, max_message_bytes: int) -> None:
    if create is not None:
        broker.ensure_topics([TopicSpec(topic, create, max_message_bytes=max_message_bytes)])
    try:
        broker.partitions(topic)
    except TopicNotFoundError as error:
        raise TopicNotFoundError(
            f"there is no topic {topic}", hint="check --topic, or let it be made: --create-topic PARTITIONS"
        ) from error


def _start_ns(text: str) -> int:
    if text == "now":
        return time.time_ns()
    try:
        return round(float(text) * _S)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"--start-pts {text!r}: give seconds, or now") from error


def _streams(sources: list[str], stream: str | None, *, from_name: bool) -> dict[str, list[str]]:
    if (stream is None) is not from_name:
        raise typer.BadParameter("name the stream with --stream ID, or give --stream-from-name")
    files = [file for source in sources for file in _files(source)]
    if len(files) > _MAX_FILES:
        raise DiffFakeError(f"{len(files)} files, over the limit of {_MAX_FILES}", hint="publish folder by folder")
    if stream is not None:
        return {checked_name(stream, "stream"): files}
    streams: dict[str, list[str]] = {}
    for file in files:
        if is_address(file):
            raise typer.BadParameter("an address has no file name: give --stream ID")
        name = checked_name(Path(file).stem, "stream")
        if name in streams:
            raise DiffFakeError(f"two files would be the stream {name}", hint="rename one, or use --stream")
        streams[name] = [file]
    return streams


def _files(source: str) -> list[str]:
    folder = Path(source)
    if is_address(source):
        return [source]
    # Before the broker is asked for, which may take half a minute to say that it is not there.
    try:
        is_folder = stat.S_ISDIR(folder.stat().st_mode)
    except FileNotFoundError as error:
        raise MediaNotFoundError(f"{source}: no such file or folder", hint="check the path and its spelling") from error
    except OSError as error:
        raise MediaNotFoundError(
            f"{source}: {(error.strerror or str(error)).lower()}", hint="check its path and rights"
        ) from error
    if not is_folder:
        return [source]
    media = media_in(folder)
    if media.left_out:
        print_note(f"{source}: {left_out_in_words(media.left_out)}. To have one published, name it itself")
    if not media.files:
        raise MediaNotFoundError(f"{source}: no video or picture in this folder", hint="name the files themselves")
    return [str(path) for path in media.files]
