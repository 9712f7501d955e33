"""``difffake tail``: scores and alerts of a running cluster as a live table, or as JSON lines."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from difffake.results import EVIDENCES
from stream.broker.contract import Record
from stream.broker.errors import TopicNotFoundError
from stream.console import LEVEL_STYLES, print_error, printable
from stream.kafka_options import KafkaOptions, with_kafka
from stream.messages import AlertRecord, MessageError, ScoreRecord, Status, decode, encode
from stream.messages.alerts import AlertState
from stream.tail import Board, Follower, Row, Worst

_S = 1_000_000_000
_POLL_S = 0.25
_ALERT_LINES = 6
_STATUS_STYLES = {
    Status.SCORED: "green",
    Status.WARMING_UP: "cyan",
    Status.DECODE_ERROR: "red",
    Status.SHED: "red",
    Status.STALE: "yellow",
}
#: JSON leaves these as they are, and a terminal may obey them: C1 controls, line separators, and bidirectional marks.
_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\uffff]")


@with_kafka
def tail(
    kafka: KafkaOptions,
    topic: Annotated[str, typer.Option(help="Topic of scores.")] = "difffake.scores",
    alerts_topic: Annotated[str, typer.Option(help="Topic of alerts.")] = "difffake.alerts",
    from_beginning: Annotated[
        bool, typer.Option("--from-beginning", help="Begin with what is there, not with what comes.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print the records of --topic as JSON lines, scores or alerts.")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Leave after so many records.")] = None,
    seconds: Annotated[float | None, typer.Option(min=0.0, help="Leave after so many seconds.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Consumer group, where groups need permission; nothing is committed in it.")
    ] = None,
) -> None:
    """Watch scores and alerts: a row per stream, the most suspicious first. Ctrl-C leaves."""
    topics = [topic] if json else [topic, alerts_topic]
    with closing(kafka.broker()) as broker:
        try:
            follower = Follower(broker, topics, from_beginning=from_beginning, group=group)
        except TopicNotFoundError as error:
            raise TopicNotFoundError(
                str(error), hint="check --topic and --alerts-topic; `difffake work` makes its topics when it starts"
            ) from error
        with follower:
            batches = _batches(follower, count, seconds)
            try:
                if json:
                    _print_lines(batches, is_alerts=topic == alerts_topic)
                else:
                    _show(batches, alerts_topic)
            except KeyboardInterrupt:
                return


def _batches(follower: Follower, count: int | None, seconds: float | None) -> Iterator[list[Record]]:
    """What has come, every quarter of a second, also when it is nothing."""
    deadline = None if seconds is None else time.monotonic() + seconds
    while (count is None or count > 0) and (deadline is None or time.monotonic() < deadline):
        records = follower.poll(_POLL_S)[:count]
        count = None if count is None else count - len(records)
        yield records


def _print_lines(batches: Iterator[list[Record]], *, is_alerts: bool) -> None:
    for records in batches:
        for record in records:
            if record.value is None:
                continue
            try:
                line = encode(decode(record.value, AlertRecord if is_alerts else ScoreRecord)).decode()
            except MessageError as error:
                print_error(error)
                continue
            sys.stdout.write(_UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line) + "\n")
        sys.stdout.flush()


def _show(batches: Iterator[list[Record]], alerts_topic: str) -> None:
    board, unread, problem = Board(), 0, ""
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        for records in batches:
            for record in records:
                try:
                    if record.value is not None and record.topic == alerts_topic:
                        board.feed_alert(decode(record.value, AlertRecord))
                    elif record.value is not None:
                        board.feed(decode(record.value, ScoreRecord), record.timestamp_ms)
                except MessageError as error:
                    unread, problem = unread + 1, f"{error}. {error.hint}"
            notes = [Text(printable(f"{unread} records that cannot be read: {problem}"), "yellow")] if unread else []
            live.update(Group(picture(board, console.height), *notes), refresh=True)


def picture(board: Board, height: int) -> RenderableType:
    """The table of a board and its alerts, for a terminal of ``height`` lines."""
    rows, alerts = board.rows(time.time_ns() // 1_000_000), board.alerts()[:_ALERT_LINES]
    if not rows and not alerts:
        return Text("waiting for scores ...", style="dim")
    room = max(height - len(alerts) - 4, 3)
    parts: list[RenderableType] = [_table(rows[:room])]
    if len(rows) > room:
        parts.append(Text(f"  and {len(rows) - room} more streams", style="dim"))
    return Group(*parts, *(_alert_line(alert) for alert in alerts))


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("stream", "PTS", "status", "people", *EVIDENCES, "coverage", "lag", "last"):
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(
            Text(printable(row.stream)),
            _pts(row.pts_ns),
            Text(row.status.value, style=_STATUS_STYLES.get(row.status, "")),
            Text(printable(", ".join(row.people))),
            *(_worst_text(row.worst.get(evidence)) for evidence in EVIDENCES),
            "" if row.coverage is None else f"{row.coverage:.0%}",
            "" if row.lag_s is None else f"{row.lag_s:.1f} s",
            f"{row.silent_s:.0f} s ago",
        )
    return table


def _worst_text(worst: Worst | None) -> Text:
    return Text("") if worst is None else Text(f"p={worst.p_value:.2g}", style=LEVEL_STYLES[worst.level])


def _pts(pts_ns: int) -> str:
    """A time of day where the PTS is one, else seconds."""
    seconds = pts_ns / _S
    if abs(time.time() - seconds) < 86_400:
        return time.strftime("%H:%M:%S", time.localtime(seconds))
    return f"{seconds:.2f} s"


def _alert_line(alert: AlertRecord) -> Text:
    style = "dim" if alert.state is AlertState.CLOSED else LEVEL_STYLES[alert.level]
    who = alert.name if alert.name is not None else f"person {alert.person}" if alert.person >= 0 else "somebody"
    line = f"{alert.state.value} {alert.kind.value} on {alert.stream}, {who}: {alert.sentence}"
    return Text(printable(line), style=style, no_wrap=True, overflow="ellipsis")
