"""``difffake tail``: scores and alerts of a running cluster as a live table, or as JSON lines."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated

import typer
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from difffake.results import EVIDENCES
from stream.broker.contract import Record
from stream.broker.errors import TopicNotFoundError
from stream.console import LEVEL_STYLES, check_reader, print_error, printable, results_console
from stream.kafka_options import KafkaOptions, with_kafka
from stream.messages import AlertRecord, MessageError, ScoreRecord, Status, decode, encode
from stream.messages.alerts import AlertState
from stream.tail import Board, Follower, Row, Worst

_S = 1_000_000_000
_POLL_S = 0.25
_ALERT_LINES = 6
#: Columns that a narrow terminal does without, the first of them first.
_LEFT_OUT = ("lag", "people", "coverage", "last", "PTS")
_ANY_WIDTH = 10_000
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
    """Watch scores and alerts: a row per stream, the most suspicious first. Ctrl-C leaves.

    Into a file or a pipe a stream's row is written as a line each time that it has changed, four times a second at the
    most, and each alert as it comes.
    """
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
        check_reader()


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


class _Watched:
    """The board of what has come, and what of it could not be read."""

    def __init__(self, alerts_topic: str) -> None:
        self.board = Board()
        self._alerts_topic = alerts_topic
        self._unread, self._problem = 0, ""

    @property
    def notes(self) -> list[Text]:
        """What who watches should know besides."""
        if not self._unread:
            return []
        return [Text(printable(f"{self._unread} records that cannot be read: {self._problem}"), "yellow")]

    def take(self, records: list[Record]) -> tuple[set[str], list[AlertRecord]]:
        """Put them on the board; the streams that were heard of, and the alerts."""
        streams, alerts = set[str](), list[AlertRecord]()
        for record in records:
            try:
                if record.value is not None and record.topic == self._alerts_topic:
                    alerts.append(decode(record.value, AlertRecord))
                    self.board.feed_alert(alerts[-1])
                elif record.value is not None:
                    score = decode(record.value, ScoreRecord)
                    self.board.feed(score, record.timestamp_ms)
                    streams.add(score.stream)
            except MessageError as error:
                self._unread, self._problem = self._unread + 1, f"{error}. {error.hint}"
        return streams, alerts


def _show(batches: Iterator[list[Record]], alerts_topic: str) -> None:
    console, watched = results_console(), _Watched(alerts_topic)
    if not console.is_terminal:
        return _print_rows(console, batches, watched)
    with Live(console=console, auto_refresh=False) as live:
        for records in batches:
            watched.take(records)
            live.update(Group(picture(watched.board, console.height), *watched.notes), refresh=True)
    return None


def _print_rows(console: Console, batches: Iterator[list[Record]], watched: _Watched) -> None:
    """Where nobody can be shown a table that changes: its rows, each time that they have."""
    told, notes = False, list[Text]()
    for records in batches:
        streams, alerts = watched.take(records)
        rows = watched.board.rows(time.time_ns() // 1_000_000)
        lines = [_row_line(row) for row in rows if row.stream in streams] + [_alert_line(alert) for alert in alerts]
        if watched.notes != notes:
            notes = watched.notes
            lines += notes
        for line in lines:
            console.print(line, soft_wrap=True)
        told = told or bool(lines)
    if not told:
        console.print(picture(watched.board, console.height))


def _row_line(row: Row) -> Text:
    parts = [Text(printable(row.stream)), Text(_pts(row.pts_ns))]
    parts.append(Text(row.status.value, style=_STATUS_STYLES.get(row.status, "")))
    if row.people:
        parts.append(Text(printable(", ".join(row.people))))
    parts += [Text.assemble(f"{name} ", _worst_text(row.worst[name])) for name in EVIDENCES if name in row.worst]
    if row.coverage is not None:
        parts.append(Text(f"coverage {row.coverage:.0%}"))
    if row.lag_s is not None:
        parts.append(Text(f"lag {row.lag_s:.1f} s"))
    return Text("  ").join(parts)


def picture(board: Board, height: int) -> RenderableType:
    """The table of a board and its alerts, for a terminal of ``height`` lines."""
    rows, alerts = board.rows(time.time_ns() // 1_000_000), board.alerts()[:_ALERT_LINES]
    if not rows and not alerts:
        return Text("waiting for scores ...", style="dim")
    room = max(height - len(alerts) - 4, 3)
    parts: list[RenderableType] = [_Rows(rows[:room])]
    if len(rows) > room:
        parts.append(Text(f"  and {len(rows) - room} more streams", style="dim"))
    return Group(*parts, *(_alert_line(alert) for alert in alerts))


class _Rows:
    """The table, without its less needed columns where the terminal is narrow: Rich would cut off ids and figures."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for left_out in range(len(_LEFT_OUT) + 1):
            table = self._table(_LEFT_OUT[:left_out])
            if table.__rich_measure__(console, options.update(max_width=_ANY_WIDTH)).maximum <= options.max_width:
                break
        yield table

    def _table(self, left_out: tuple[str, ...]) -> Table:
        cells = [_cells(row) for row in self._rows]
        names = [name for name in cells[0] if name not in left_out] if cells else []
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for name in names:
            table.add_column(name, no_wrap=True, overflow="ellipsis")
        for one in cells:
            table.add_row(*(one[name] for name in names))
        return table


def _cells(row: Row) -> dict[str, str | Text]:
    return {
        "stream": Text(printable(row.stream)),
        "PTS": _pts(row.pts_ns),
        "status": Text(row.status.value, style=_STATUS_STYLES.get(row.status, "")),
        "people": Text(printable(", ".join(row.people))),
        **{evidence: _worst_text(row.worst.get(evidence)) for evidence in EVIDENCES},
        "coverage": "" if row.coverage is None else f"{row.coverage:.0%}",
        "lag": "" if row.lag_s is None else f"{row.lag_s:.1f} s",
        "last": f"{row.silent_s:.0f} s ago",
    }


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
