"""A stream online as tests show it to the live room: frames of a made-up broadcast, and a clock."""

from __future__ import annotations

from typing import Any

from live_world import (
    STREAM,
    Shown,
    picture,
    source,
    state_record,
)

from difffake.anchors import AnchorPolicy
from stream.live import LiveModels, LiveSettings, LiveStream
from stream.messages import (
    CommandRecord,
    EnrolmentRecord,
    ScoreRecord,
    StateRecord,
    decode,
    encode,
)

START_NS = 1_790_000_000_123_456_789
STEP_NS = 200_000_000
QUICK = AnchorPolicy(size=3, min_frames=4, gap_s=0.15, patience_s=4.0)
SETTINGS = LiveSettings(window_s=2.0, min_window_frames=3, anchor=QUICK, max_faces=3, threads=1)
A, B, C, D, E = range(5)
Operation = EnrolmentRecord | CommandRecord | str


class Show:
    """A stream and its clock."""

    def __init__(self, models: LiveModels, settings: LiveSettings = SETTINGS, start_ns: int = START_NS) -> None:
        self.models, self.settings = models, settings
        self.stream = LiveStream(STREAM, models, settings)
        self.next_ns = start_ns

    def frames(self, count: int, *faces: Shown, place: int = 0) -> list[ScoreRecord]:
        """Some more frames, a fifth of a second each."""
        shown = [picture(self.next_ns + i * STEP_NS, faces, place) for i in range(count)]
        self.next_ns += count * STEP_NS
        return self.stream.process(shown, source)

    def pause(self, seconds: float) -> None:
        """Nothing comes for a while."""
        self.next_ns += round(seconds * 1e9)

    def save(self) -> StateRecord:
        """The state, once through the wire."""
        record = state_record(self.stream.sections(), self.stream.last_pts_ns)
        return decode(encode(record), type(record))

    def restart(self) -> None:
        """Go on from the saved state, as another process would."""
        self.stream = LiveStream.restore(STREAM, self.models, self.settings, self.save())


def only(record: ScoreRecord) -> Any:
    (face,) = record.faces
    return face
