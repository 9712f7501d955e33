"""Which streams operators have muted, as the commands on the enrolments topic say.

A muted stream raises no alerts: a wall that did not say so would show calm where nobody may speak.
"""

from __future__ import annotations

from collections import OrderedDict

from stream.messages import Command, CommandRecord

_MAX_STREAMS = 4096
_MAX_MUTES = 64
_Key = tuple[int | str | None, str | None]


class Mutes:
    """The mutes of every stream, the newest of a person and an evidence; memory is bounded."""

    def __init__(self) -> None:
        self._streams: OrderedDict[str, dict[_Key, CommandRecord]] = OrderedDict()

    def take(self, record: CommandRecord) -> bool:
        """Take in a command; whether it was about muting."""
        if record.command not in (Command.ALERT_MUTE, Command.ALERT_UNMUTE):
            return False
        mutes, key = self._streams.setdefault(record.stream, {}), (record.person, record.evidence)
        mutes.pop(key, None)
        if record.command is Command.ALERT_MUTE:
            mutes[key] = record
            if len(mutes) > _MAX_MUTES:
                del mutes[next(iter(mutes))]
        elif key == (None, None):  # of nobody and nothing in particular: everything
            mutes.clear()
        self._streams.move_to_end(record.stream)
        if not mutes:
            del self._streams[record.stream]
        elif len(self._streams) > _MAX_STREAMS:
            self._streams.popitem(last=False)
        return True

    def of(self, stream: str, now_s: float, began_ns: int = 0) -> str:
        """What is muted, by whom and until when, in words; empty where nothing is.

        Args:
            stream: its id.
            now_s: since the epoch. A mute counts stream time; for live video that is the clock's.
            began_ns: when the stream began anew, since the epoch: of a mute from before counts what was left then.
        """
        said = []
        for given in self._streams.get(stream, {}).values():
            record = given.left(began_ns)
            if record is None:
                continue
            since_s = max(given.issued_ns, began_ns) / 1e9
            if record.value is not None and since_s + record.value <= now_s:
                continue
            who = "everybody" if record.person is None else str(record.person)
            what = f" ({record.evidence})" if record.evidence is not None else ""
            until = "until unmuted" if record.value is None else f"for {_words(record.value)}"
            said.append(f"{who}{what} {until}, by {record.by}")
        return "; ".join(said)


def _words(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
