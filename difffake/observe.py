"""Frames in, observations out: every face with its track, its quality, its embedding and its logit.

Frames stream through: no more than one is held at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Real

import cv2
import numpy as np
import numpy.typing as npt

from difffake.crops import channels_first, cut_out
from difffake.errors import ArgumentError
from difffake.faces import EYE_DISTANCE, Faces, Reason
from difffake.faces.finder import Finder, FinderState
from difffake.limits import Limits
from difffake.people import People, Sightings, Tracker
from difffake.picture import RgbPicture
from difffake.settings import ScanSettings
from difffake.video import Frame
from engines.contract import Engine

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

_THUMBNAIL_PX = 112
_THUMBNAIL_QUALITY = 80
_MAX_THUMBNAILS = 8192
#: Nanoseconds are counted in 64 bits.
_MAX_S = 9e9

#: Called with the time of the frame just analysed (s) and the number of frames so far.
Progress = Callable[[float, int], None]
#: Embeddings ``(N, D)`` and logits ``(N,)`` -> how suspicious each face is ``(N,)``.
Rank = Callable[[F32, F32], F64]


class FrameStatus(StrEnum):
    """What became of an analysed frame."""

    SCORED = "SCORED"
    NO_FACE = "NO_FACE"
    LOW_QUALITY = "LOW_QUALITY"
    DECODE_ERROR = "DECODE_ERROR"


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """What was seen, as aligned arrays: F frames in order of time, and N faces in order of frames.

    Args:
        frame_time_s: ``(F,) float64``.
        frame_status: F statuses.
        frame_reason: F texts; why a LOW_QUALITY frame is one, else empty.
        frame_of: ``(N,) int64``, the row of the face's frame.
        time_s: ``(N,) float64``.
        shot: ``(N,) int64``, the number of the shot, one more after every cut.
        track: ``(N,) int64``, see `difffake.people.Tracker`.
        person: ``(N,) int64``, who it is, the same across cuts; -1 where nobody can tell.
        boxes_px, landmarks_px, confidence: as in `difffake.faces.Faces`.
        reason: N times `Reason.OK`, or why the face was not embedded.
        yaw_deg, pitch_deg, luma, sharpness: ``(N,) float32``, see `difffake.faces.Quality`.
        embedding: ``(N, D) float32``; NaN where not embedded.
        logit: ``(N,) float32``; NaN where not embedded.
        identity: ``(N, I) float32`` of the identity network; NaN where not embedded; I is 0 without a network.
        names: person -> enrolled name.
        ambiguous: person -> others of the same face, who were seen beside it in one picture.
        thumbnails: row of a face -> JPEG of its aligned crop, 112 px; of every track the face with the
            highest rank of each second (of longer spans in long videos).
        warnings: ``"code: what happened"``.
        crops: row of a face -> its aligned crop as the network took it, of the faces that rank highest, if asked for.
    """

    frame_time_s: F64
    frame_status: list[FrameStatus]
    frame_reason: list[str]
    frame_of: I64
    time_s: F64
    shot: I64
    track: I64
    person: I64
    boxes_px: F32
    landmarks_px: F32
    confidence: F32
    reason: list[Reason]
    yaw_deg: F32
    pitch_deg: F32
    luma: F32
    sharpness: F32
    embedding: F32
    logit: F32
    identity: F32
    names: dict[int, str]
    ambiguous: dict[int, tuple[int, ...]]
    thumbnails: dict[int, bytes]
    warnings: list[str]
    crops: dict[int, U8] = field(default_factory=dict)

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Mask ``(N,)`` of the faces that were embedded."""
        return np.array([r is Reason.OK for r in self.reason], bool)


def observe(
    frames: Iterable[Frame],
    finder: Finder,
    engine: Engine,
    settings: ScanSettings | None = None,
    *,
    identity_engine: Engine | None = None,
    people: People | None = None,
    eye_distance: float = EYE_DISTANCE,
    progress: Progress | None = None,
    rank: Rank | None = None,
    keep_crops: int = 0,
) -> Observations:
    """Find, track, judge, embed and recognise the faces of frames.

    Args:
        frames: in order of time; a `difffake.video.VideoSource` also tells which frames were lost.
        finder: finds the faces.
        engine: embeds them.
        settings: `ScanSettings()` if not given.
        identity_engine: embeds who they are; without one every track is a person of its own.
        people: who is known already; nobody if not given.
        eye_distance: the share of a crop's side between the eyes that the engine was trained for.
        progress: called after every frame.
        rank: which faces are the most suspicious, by embedding and logit; by the logit if not given.
        keep_crops: how many crops of these are kept, one a second of each track at most.

    Raises:
        ArgumentError, LimitExceededError: see `checked_picture`.
        DiffFakeError: whatever the frames, the finder or the engine raise.
    """
    settings = settings or ScanSettings()
    seen = _Collector(finder, engine, identity_engine, people or People(), settings, eye_distance, rank, keep_crops)
    for frame in frames:
        seen.add(frame)
        if progress is not None:
            progress(frame.pts_s, len(seen.frame_time_s))
        if seen.is_full:
            break
    return seen.finish(list(getattr(frames, "lost_s", ())))


def checked_picture(frame: Frame, limits: Limits) -> RgbPicture:
    """The picture of a frame, whoever made it.

    Raises:
        ArgumentError: no `Frame`, no RGB picture ``(H, W, 3) uint8``, or a time that is none.
        LimitExceededError: larger than ``limits``; of far larger ones OpenCV ends the process.
    """
    if not isinstance(frame, Frame):
        raise ArgumentError(
            f"frames are difffake.Frame(index, pts_s, image), not {type(frame).__name__}",
            hint="Frame(i, i / fps, picture) for each picture of a video; one picture alone is given as it is",
        )
    if not (isinstance(frame.pts_s, Real) and 0 <= frame.pts_s <= _MAX_S):
        raise ArgumentError(
            f"pts_s of a Frame is seconds from the start, 0 to {_MAX_S:g}, not {frame.pts_s!r}",
            hint="give the picture's time in the video, or its index / fps",
        )
    picture = RgbPicture(frame.image)
    limits.check_size("a frame", picture.width_px, picture.height_px)
    return picture


class _Collector:
    """The growing lists behind `observe`."""

    def __init__(
        self,
        finder: Finder,
        engine: Engine,
        identity_engine: Engine | None,
        people: People,
        settings: ScanSettings,
        eye_distance: float,
        rank: Rank | None,
        keep_crops: int,
    ) -> None:
        self._rank, self._worst = rank, _WorstCrops(keep_crops)
        self._finder, self._engine, self._settings = finder, engine, settings
        self._state = FinderState()
        self._identity_engine, self._people = identity_engine, people
        self._eye_distance = eye_distance
        self._tracker = Tracker(max_tracks=8 * settings.max_faces)
        self._thumbnails = _Thumbnails()
        self._shot = 0
        self._waiting: list[U8] = []
        self._waiting_chips: list[U8] = []
        self._waiting_rows: list[int] = []
        self._embedded_rows: list[int] = []
        self._embeddings: list[F32] = []
        self._logits: list[F32] = []
        self._identities: list[F32] = []
        self._quality: list[F32] = []
        self._shots: list[I64] = []
        self._frames_told = 0
        self._faces_told = 0
        self._faces: list[Faces] = []
        self._tracks: list[I64] = []
        self._frame_of: list[int] = []
        self._reasons: list[Reason] = []
        self.frame_time_s: list[float] = []
        self._status: list[FrameStatus] = []
        self._frame_reason: list[str] = []

    @property
    def is_full(self) -> bool:
        """Whether the bound on kept faces is reached."""
        return len(self._reasons) >= self._settings.max_scored

    def add(self, frame: Frame) -> None:
        """Take in a frame; its image is not kept."""
        picture = checked_picture(frame, self._settings.limits)
        (found,) = self._finder.find([picture], [round(frame.pts_s * 1e9)], [self._state])
        self._state = found.state
        faces = found.faces[: self._settings.max_faces]
        self._shot += found.is_cut
        tracks = self._tracker.update(faces, frame.pts_s, cut=found.is_cut)
        crops = cut_out(
            picture,
            faces,
            self._engine.spec.side_px,
            eye_distance=self._eye_distance,
            has_identity=self._identity_engine is not None,
        )
        quality = crops.quality
        good = np.flatnonzero(quality.ok)
        first = len(self._reasons)
        self._waiting.extend(crops.faces)
        self._waiting_rows.extend((first + good).tolist())
        self._waiting_chips.extend(crops.chips)
        self._quality.append(np.stack([quality.yaw_deg, quality.pitch_deg, quality.luma, quality.sharpness], axis=1))
        self._shots.append(np.full(len(faces), self._shot, np.int64))
        self._frame_of.extend([len(self.frame_time_s)] * len(faces))
        self._faces.append(faces)
        self._tracks.append(tracks)
        self._reasons.extend(quality.reason)
        self.frame_time_s.append(frame.pts_s)
        if len(good):
            status, reason = FrameStatus.SCORED, ""
        elif len(faces):
            status, reason = FrameStatus.LOW_QUALITY, str(quality.reason[0])
        else:
            status, reason = FrameStatus.NO_FACE, ""
        self._status.append(status)
        self._frame_reason.append(reason)
        if len(self._waiting_rows) >= self._engine.spec.max_batch:
            self._embed()

    def _embed(self) -> None:
        """Embed the faces that wait, and say who is who in all frames since the last time."""
        identity_dim = 0 if self._identity_engine is None else self._identity_engine.spec.dim
        identity = np.full((len(self._reasons) - self._faces_told, identity_dim), np.nan, np.float32)
        if self._waiting_rows:
            rows = np.array(self._waiting_rows) - self._faces_told
            self._embed_waiting()
            if self._identities:
                identity[rows] = self._identities[-1]
        since = slice(self._frames_told, None)
        faces = self._faces[since]
        if self._faces_told < len(self._reasons):
            times = np.array(self.frame_time_s[since], np.float64)
            self._people.update(
                Sightings(
                    time_s=np.repeat(times, [len(f) for f in faces]),
                    track=np.concatenate(self._tracks[since]),
                    shot=np.concatenate(self._shots[since]),
                    identity=identity,
                    boxes_px=np.concatenate([f.boxes_px for f in faces]),
                )
            )
        self._frames_told, self._faces_told = len(self._faces), len(self._reasons)

    def _embed_waiting(self) -> None:
        crops = np.stack(self._waiting)
        result = self._engine.infer(channels_first(crops))
        self._embeddings.append(result.embedding)
        self._logits.append(result.logit)
        if self._identity_engine is not None:
            chips = channels_first(np.stack(self._waiting_chips))
            self._identities.append(self._identity_engine.infer(chips).embedding)
        self._embedded_rows.extend(self._waiting_rows)
        tracks = np.concatenate(self._tracks[self._frames_told :])
        ranks = result.logit if self._rank is None else self._rank(result.embedding, result.logit)
        for row, crop, value in zip(self._waiting_rows, crops, ranks, strict=True):
            time_s, track = self.frame_time_s[self._frame_of[row]], int(tracks[row - self._faces_told])
            self._thumbnails.offer(row, track, time_s, float(value), crop)
            self._worst.offer(row, track, time_s, float(value), crop)
        self._waiting, self._waiting_chips, self._waiting_rows = [], [], []

    def finish(self, lost_s: list[float]) -> Observations:
        """Embed what waits, and join everything; ``lost_s`` are times of frames that could not be decoded."""
        self._embed()
        n, empty = len(self._reasons), Faces.empty()
        embedding = np.full((n, self._engine.spec.dim), np.nan, np.float32)
        logit = np.full(n, np.nan, np.float32)
        identity_dim = 0 if self._identity_engine is None else self._identity_engine.spec.dim
        identity = np.full((n, identity_dim), np.nan, np.float32)
        if self._identities:
            identity[self._embedded_rows] = np.concatenate(self._identities)
        if self._embedded_rows:
            embedding[self._embedded_rows] = np.concatenate(self._embeddings)
            logit[self._embedded_rows] = np.concatenate(self._logits)
        times = np.array(self.frame_time_s + lost_s, np.float64)
        order = np.argsort(times, kind="stable")
        row_of = np.argsort(order, kind="stable")
        status = self._status + [FrameStatus.DECODE_ERROR] * len(lost_s)
        reasons = self._frame_reason + [""] * len(lost_s)
        frame_of = np.array(self._frame_of, np.int64)
        quality = np.concatenate([np.zeros((0, 4), np.float32), *self._quality])
        track = np.concatenate([np.zeros(0, np.int64), *self._tracks])
        face_time_s = np.array(self.frame_time_s, np.float64)[frame_of]
        person = self._people.resolve(track, face_time_s)
        names = {int(i): name for i in np.unique(person) if (name := self._people.name_of(int(i))) is not None}
        alike = {int(i): tuple(self._people.ambiguous(int(i)).tolist()) for i in np.unique(person)}
        warnings = []
        if self.is_full:
            warnings.append(f"cut: stopped after {n} faces, the limit max_scored")
        return Observations(
            frame_time_s=times[order],
            frame_status=[status[i] for i in order],
            frame_reason=[reasons[i] for i in order],
            frame_of=row_of[frame_of].astype(np.int64),
            time_s=face_time_s,
            shot=np.concatenate([np.zeros(0, np.int64), *self._shots]),
            track=track,
            person=person,
            boxes_px=np.concatenate([empty.boxes_px, *(f.boxes_px for f in self._faces)]),
            landmarks_px=np.concatenate([empty.landmarks_px, *(f.landmarks_px for f in self._faces)]),
            confidence=np.concatenate([empty.confidence, *(f.confidence for f in self._faces)]),
            reason=self._reasons,
            yaw_deg=quality[:, 0],
            pitch_deg=quality[:, 1],
            luma=quality[:, 2],
            sharpness=quality[:, 3],
            embedding=embedding,
            logit=logit,
            identity=identity,
            names=names,
            ambiguous={i: others for i, others in alike.items() if others},
            thumbnails=self._thumbnails.by_row(),
            warnings=warnings,
            crops=self._worst.by_row(),
        )


class _WorstCrops:
    """The crops of highest rank, one a track and second, no more than ``limit`` at any time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._best: dict[tuple[int, int], tuple[float, int, U8]] = {}

    def offer(self, row: int, track: int, time_s: float, value: float, crop: U8) -> None:
        key = track, int(time_s)
        held = self._best.get(key)
        if not self._limit or (held is not None and held[0] >= value):
            return
        if held is None and len(self._best) >= self._limit:
            least = min(self._best, key=lambda k: self._best[k][0])
            if self._best[least][0] >= value:
                return
            del self._best[least]
        self._best[key] = value, row, crop.copy()

    def by_row(self) -> dict[int, U8]:
        return {row: crop for _, row, crop in self._best.values()}


class _Thumbnails:
    """For each track and slot of time the picture with the highest rank; slots grow so that memory does not."""

    def __init__(self) -> None:
        self._slot_s = 1.0
        self._best: dict[tuple[int, int], tuple[float, int, float, bytes]] = {}

    def offer(self, row: int, track: int, time_s: float, value: float, crop: U8) -> None:
        key = track, int(time_s / self._slot_s)
        if key in self._best and self._best[key][0] >= value:
            return
        small = cv2.resize(crop, (_THUMBNAIL_PX, _THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
        done, data = cv2.imencode(
            ".jpg",
            cv2.cvtColor(small, cv2.COLOR_RGB2BGR),
            [cv2.IMWRITE_JPEG_QUALITY, _THUMBNAIL_QUALITY],
        )
        if done:
            self._best[key] = value, row, time_s, data.tobytes()
        if len(self._best) > _MAX_THUMBNAILS:
            self._thin()

    def _thin(self) -> None:
        self._slot_s *= 2
        thinned: dict[tuple[int, int], tuple[float, int, float, bytes]] = {}
        for (track, _), entry in self._best.items():
            key = track, int(entry[2] / self._slot_s)
            if key not in thinned or thinned[key][0] < entry[0]:
                thinned[key] = entry
        # So many tracks that slots do not help: the most suspicious faces are what a report shows.
        best = sorted(thinned.items(), key=lambda item: -item[1][0])[: _MAX_THUMBNAILS // 2]
        self._best = dict(best)

    def by_row(self) -> dict[int, bytes]:
        return {row: data for _, row, _, data in self._best.values()}
