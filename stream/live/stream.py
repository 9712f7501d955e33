"""One stream, frame after frame: who is in it, what their faces say, and what operators want of their anchors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

import difffake
from difffake.anchors import AnchorPool, Candidates
from difffake.anchors.file import anchors_from_bytes, fit_anchors
from difffake.errors import AnchorError, DataError
from difffake.faces import Reason
from difffake.faces.finder import FinderState
from difffake.people import Kind
from difffake.picture import Picture
from stream.live.faces import FaceJudge, Held, stands
from stream.live.models import LiveModels, Look
from stream.live.saved import Memory
from stream.live.settings import MAX_ENROLLED_FRAMES, LiveSettings
from stream.messages import (
    UNKNOWN,
    Command,
    CommandRecord,
    EnrolmentRecord,
    Face,
    ScoreRecord,
    Source,
    StateRecord,
    Status,
    bounded,
)

I64 = npt.NDArray[np.int64]


class Frame(Protocol):
    """What is asked of a frame."""

    @property
    def pts_ns(self) -> int:
        """Presentation time, nanoseconds; rises within a stream."""

    @property
    def picture(self) -> Picture:
        """What it shows."""


F = TypeVar("F", bound=Frame)


class LiveStream:
    """All that is known of one stream. The same frames and records in the same order give the same scores and the same
    state, wherever the frames are divided into calls of `process`, and wherever the state was saved and restored.

    Args:
        stream: its id.
        models: the networks.
        settings: `LiveSettings`.
    """

    def __init__(self, stream: str, models: LiveModels, settings: LiveSettings) -> None:
        self._stream, self._models, self._settings = stream, models, settings
        self._take(Memory.new(settings))

    def _take(self, memory: Memory) -> None:
        self._memory = memory
        self._judge = FaceJudge(self._models, self._settings, memory.windows)

    @classmethod
    def restore(cls, stream: str, models: LiveModels, settings: LiveSettings, record: StateRecord) -> LiveStream:
        """The stream whose `sections` are in a state record.

        Raises:
            OtherModelError: the state was made with other networks.
            MessageError: a section is damaged.
        """
        restored = cls(stream, models, settings)
        restored._take(Memory.restored(models, settings, record))
        return restored

    def sections(self) -> dict[str, Any]:
        """The fields ``people``, ``tracker``, ``finder``, ``evidence``, ``anchors`` and ``arrays`` of a `StateRecord`,
        exact."""
        return self._memory.sections(self._models)

    @property
    def last_pts_ns(self) -> int | None:
        """PTS of the last frame; None before the first."""
        return self._memory.last_pts_ns

    @property
    def anchors_bytes(self) -> dict[int, bytes]:
        """Person -> the bytes of their anchor keeper."""
        return self._memory.anchors.to_bytes()

    # -- frames ------------------------------------------------------------------------------------------------------
    def process(self, frames: Sequence[F], source: Callable[[F], Source]) -> list[ScoreRecord]:
        """Analyse frames in order of time; one record each, faces in the order of their tracks.

        Networks come first: where one fails, nothing has changed.

        Raises:
            DataError: times that do not rise.
            EngineError: a network failed.
        """
        times = [frame.pts_ns for frame in frames]
        self._check_times(times)
        sources = [source(frame) for frame in frames]
        looks = self._models.look_through([(frame.picture, frame.pts_ns) for frame in frames], self.finder)
        return self.take(times, looks, sources)

    @property
    def finder(self) -> FinderState:
        """To be passed with the next frame to `LiveModels.look`."""
        return self._memory.finder

    def take(self, pts_ns: Sequence[int], looks: Sequence[Look], sources: Sequence[Source]) -> list[ScoreRecord]:
        """What `process` does with frames once the networks have looked at them: each look began with the `finder` of
        the one before, the first one with this stream's.

        Raises:
            DataError: times that do not rise; nothing has changed.
        """
        self._check_times(list(pts_ns))
        return [self._frame(*frame) for frame in zip(pts_ns, looks, sources, strict=True)]

    def _check_times(self, times: list[int]) -> None:
        if self.last_pts_ns is not None:
            times = [self.last_pts_ns, *times]
        if any(now <= last for last, now in pairwise(times)):
            raise DataError("frames whose times do not rise", hint="pass each frame of a stream once, in order of time")

    def _frame(self, pts_ns: int, look: Look, source: Source) -> ScoreRecord:
        memory = self._memory
        if memory.last_pts_ns is None:
            memory.anchors.begin(pts_ns)
        memory.last_pts_ns = pts_ns
        memory.windows.move(pts_ns)
        memory.finder = look.finder
        memory.shot += look.is_cut
        tracks = memory.tracker.update(look.faces, pts_ns / 1e9, cut=look.is_cut)
        people = self._recognise(pts_ns, look, tracks)
        rows = np.argsort(tracks).tolist() if len(tracks) > 1 else range(len(tracks))
        faces = [self._face(look, row, int(tracks[row]), people[row], pts_ns) for row in rows]
        self._offer(pts_ns, look, people)
        memory.anchors.tidy(pts_ns, memory.people.remembers)
        status, reason = self._status(faces)
        return ScoreRecord(
            stream=self._stream,
            pts_ns=pts_ns,
            source=source,
            status=status,
            reason=bounded(reason),
            faces=tuple(faces),
            model_id=self._models.model_id,
            difffake=difffake.__version__,
        )

    def _recognise(self, pts_ns: int, look: Look, tracks: I64) -> list[int]:
        """Persons of the N faces, each with a keeper where there is room."""
        memory = self._memory
        found = memory.people.see(pts_ns / 1e9, memory.shot, tracks, look.identity, look.faces.boxes_px)
        people: list[int] = found.tolist()
        self._follow_merges()
        here = set(people) - {UNKNOWN}
        for person in sorted(here):
            memory.anchors.open(person, here)
        return people

    def _follow_merges(self) -> None:
        memory = self._memory
        for event in memory.people.take_events():
            if event.kind is Kind.MERGED:
                takes_over = memory.anchors.merge(event.person, event.other)
                memory.windows.merge(event.person, event.other, takes_over=takes_over)

    def _face(self, look: Look, row: int, track: int, person: int, pts_ns: int) -> Face:
        anchors = self._memory.anchors
        held = Held(
            person=person,
            name=self._memory.people.name_of(person),
            keeper=anchors.get(person),
            since_ns=anchors.since_ns(person),
            enrolled=tuple(anchors.enrolled_pools),
        )
        return self._judge.judge(look, row, track, held, pts_ns)

    def _offer(self, pts_ns: int, look: Look, people: list[int]) -> None:
        for person in sorted(set(people) - {UNKNOWN}):
            rows = [row for row, other in enumerate(people) if other == person]
            good = sum(look.quality.reason[row] is Reason.OK for row in rows)
            self._memory.anchors.offer(person, partial(_candidates, look, rows, pts_ns / 1e9), good, pts_ns)

    def _status(self, faces: list[Face]) -> tuple[Status, str]:
        scored = [face for face in faces if face.quality is Reason.OK]
        if not faces:
            return Status.NO_FACE, ""
        if not scored:
            return Status.LOW_QUALITY, faces[0].quality.value
        needs_anchor = {"anchor", "identity"} & set(self._models.evidence)
        if not needs_anchor or any(stands(face) for face in scored):
            return Status.SCORED, ""
        missing = scored[0].missing
        return Status.WARMING_UP, next((missing[e] for e in ("anchor", "identity") if e in missing), "")

    # -- operators ---------------------------------------------------------------------------------------------------
    def apply(self, record: EnrolmentRecord | CommandRecord) -> list[str]:
        """Enrol somebody, or do what an operator commands; what cannot be done is told and changes nothing.

        A command to everybody means those whose anchor this stream keeps now. ``reset`` and ``unfreeze`` act on the
        anchor. ``forget`` also takes an enrolment back and forgets the person's faces.

        Returns:
            Warnings, ``"code: what happened"``.
        """
        if record.stream != self._stream:
            return [f"foreign: a record for the stream {record.stream[:80]}, not {self._stream[:80]}"]
        return self._enrol(record) if isinstance(record, EnrolmentRecord) else self._command(record)

    def withdraw(self, person: str) -> None:
        """Take an enrolment back: the anchor, the name and the enrolled faces go."""
        number = self._memory.people.names.get(person)
        if number is not None:
            self._forget(number)

    def _enrol(self, record: EnrolmentRecord) -> list[str]:
        memory, name = self._memory, record.person
        who = f"the enrolment of {name}"
        try:
            given = anchors_from_bytes(record.anchors, who)
            file = fit_anchors(given, self._models.bundle, Path(name))
        except AnchorError as error:
            return [f"enrolment: {who} is refused: {error} ({error.hint})"]
        if file.stream != self._stream or [p.name for p in file.people] != [name]:
            return [f"enrolment: {who} is refused: its anchors are of another stream or person"]
        pool = file.people[0].pool
        if wrong := self._misfit(pool):
            return [f"enrolment: {who} is refused: {wrong}"]
        names = memory.people.names
        if name not in names and len(names) >= self._settings.max_enrolled:
            return [f"enrolment: {who} is refused: {len(names)} people are enrolled, the limit max_enrolled"]
        before = names.get(name)
        person = memory.people.replace(name, pool.identities)
        self._follow_merges()
        if before is not None and before != person:
            memory.anchors.drop(before)
            memory.windows.forget(before)
        memory.anchors.enrol(person, pool, self.last_pts_ns)
        return list(file.warnings)

    def _misfit(self, pool: AnchorPool) -> str:
        """Why an anchor cannot be used with these networks, or nothing."""
        if not self._models.identity_dim:
            return "this bundle has no identity network, and nobody can be recognised"
        if not pool.has_identity:
            return "it has no identity embeddings of this bundle's network; enrol again with `difffake enroll`"
        if len(pool) > MAX_ENROLLED_FRAMES:
            return f"it has {len(pool)} frames, over {MAX_ENROLLED_FRAMES}"
        sizes = pool.embeddings.shape[1], pool.identities.shape[1]
        if sizes[0] not in (0, self._models.bundle.manifest.dim) or sizes[1] != self._models.identity_dim:
            return f"its embeddings have {sizes} numbers"
        return ""

    def _command(self, record: CommandRecord) -> list[str]:
        memory, asked = self._memory, record.person
        if asked is None:
            people = list(memory.anchors)
        else:
            person = asked if isinstance(asked, int) else memory.people.names.get(asked)
            if person is None or (person not in memory.anchors and not memory.people.remembers(person)):
                return [f"command: {record.command.value}: nobody in this stream is {asked!r}"]
            if person not in memory.anchors and record.command is not Command.FORGET:
                return [f"command: {record.command.value}: there is no anchor of {asked!r}"]
            people = [person]
        for person in people:
            if record.command is Command.FORGET:
                self._forget(person)
            elif record.command is Command.RESET:
                memory.anchors.reset(person)
            else:
                memory.anchors.freeze(person, record.command is Command.FREEZE)
        return []

    def _forget(self, person: int) -> None:
        self._memory.people.forget(person)
        self._memory.anchors.drop(person)
        self._memory.windows.forget(person)


def _candidates(look: Look, rows: list[int], time_s: float) -> Candidates:
    """Some faces of a look, as an anchor's keeper takes them."""
    quality = look.quality
    return Candidates(
        time_s=np.full(len(rows), time_s),
        embedding=look.embedding[rows],
        logit=look.logit[rows],
        identity=look.identity[rows],
        yaw_deg=quality.yaw_deg[rows],
        pitch_deg=quality.pitch_deg[rows],
        luma=quality.luma[rows],
        sharpness=quality.sharpness[rows],
        artifact_p=look.artifact_p[rows],
        good=quality.ok[rows],
    )
