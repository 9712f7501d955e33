"""A made-up broadcast: frames that say by colour whose faces they show, and networks that read them back.

The detector and the networks are scripted, everything between them is real: alignment, quality, tracks, people.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray
from streams import calibrated
from tiny import DIM, IDENTITY_DIM

from difffake.anchors import AnchorPool, Origin
from difffake.anchors.file import AnchorFile, EnrolledPerson, anchors_to_bytes
from difffake.bundle import Bundle
from difffake.calibration import Calibration
from difffake.errors import EngineError
from difffake.faces import Faces
from difffake.faces.finder import EveryFrame
from difffake.picture import RgbPicture
from engines.contract import Embeddings, EngineSpec
from stream.live import LiveModels, LiveSettings
from stream.messages import Command, CommandRecord, EnrolmentRecord, Source, StateRecord

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]

STREAM = "studio/1"
#: Grey levels of red between two people, and where they begin.
_STEP, _FIRST = 24, 40
#: Blue of a face that looks manufactured, and of one that does not.
_FAKE, _REAL = 200, 90
_EYES_PX = 28.0
_SHAPE = np.array([(-0.5, -0.36), (0.5, -0.36), (0.0, 0.22), (-0.41, 0.76), (0.41, 0.76)], np.float32)
#: Standard deviation of one number of an identity embedding: two faces of a person are about 0.2 apart.
_SPREAD = 0.05


@dataclass(frozen=True)
class Shown:
    """A face in a frame: whose, where (px from the left), whether it looks manufactured, whether it is large enough."""

    who: int
    x: int = 60
    fake: bool = False
    small: bool = False


@dataclass(frozen=True)
class Picture:
    """A frame as the worker passes it."""

    pts_ns: int
    image: U8
    index: int = 0

    @property
    def picture(self) -> RgbPicture:
        return RgbPicture(self.image)


def picture(pts_ns: int, faces: Sequence[Shown], place: int = 0) -> Picture:
    """A frame of 320 x 180 in one of several places, with faces; no two have the same noise."""
    back = np.random.default_rng([7, place]).integers(30, 220, (9, 16, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(back, 20, axis=0), 20, axis=1)
    for face in faces:
        rng = np.random.default_rng([abs(pts_ns), face.who, face.x])
        x1, y1, x2, y2 = _box(face).astype(int)
        patch = rng.integers(-36, 37, (y2 - y1, x2 - x1, 1)) + np.zeros(3, np.int64)
        patch += np.array([_FIRST + _STEP * face.who, 110, _FAKE if face.fake else _REAL])
        image[y1:y2, x1:x2] = np.clip(patch, 0, 255)
    # What the scripted detector reads: how many faces, and of each its place and its size.
    image[0, :, :] = 0
    image[0, 0, 0] = len(faces)
    for i, face in enumerate(faces):
        image[0, i + 1] = face.x % 256, face.x // 256, face.small
    return Picture(pts_ns, image)


def _box(face: Shown) -> F32:
    half = _EYES_PX * (0.4 if face.small else 1.0)
    return np.array([face.x - 1.2 * half, 90 - 1.3 * half, face.x + 1.2 * half, 90 + 1.5 * half], np.float32)


class ScriptedDetector:
    """Finds what `picture` painted."""

    def detect(self, images: Sequence[U8]) -> list[Faces]:
        return [self._one(image) for image in images]

    @staticmethod
    def _one(image: U8) -> Faces:
        marks = image[0, 1 : 1 + int(image[0, 0, 0])].astype(int).tolist()
        faces = [Shown(0, low + 256 * high, small=bool(small)) for low, high, small in marks]
        n = len(faces)
        eyes = np.array([_EYES_PX * (0.4 if f.small else 1.0) for f in faces], np.float32)
        middle = np.array([(f.x, 90) for f in faces], np.float32).reshape(n, 2)
        points = middle[:, None] + _SHAPE[None] * eyes[:, None, None]
        boxes = np.array([_box(f) for f in faces], np.float32).reshape(n, 4)
        return Faces(boxes, points.astype(np.float32), np.linspace(0.9, 0.8, n, dtype=np.float32))


def centre(who: int) -> F32:
    """A person's place among identity embeddings; two of them are 0.7 apart."""
    return np.eye(IDENTITY_DIM, dtype=np.float32)[who % IDENTITY_DIM] * np.float32(0.5)


def identities(who: int, count: int, seed: int = 0) -> F32:
    """Identity embeddings of other footage of a person."""
    noise = np.random.default_rng([seed, who]).normal(0, _SPREAD, (count, IDENTITY_DIM))
    return (centre(who) + noise).astype(np.float32)


class ScriptedEngine:
    """Reads from a face's colours whose it is; its noise comes from the pixels."""

    def __init__(self, side_px: int, dim: int) -> None:
        self._spec = EngineSpec(side_px, dim, max_batch=4, backend="script", has_logit=dim == DIM)
        self.fails = False

    @property
    def spec(self) -> EngineSpec:
        return self._spec

    def infer(self, faces: U8) -> Embeddings:
        if self.fails:
            raise EngineError("the network failed", hint="none")
        rows = [self._one(face) for face in faces]
        embedding = np.array([row for row, _ in rows], np.float32).reshape(len(faces), self._spec.dim)
        return Embeddings(embedding, np.array([logit for _, logit in rows], np.float32))

    def _one(self, face: U8) -> tuple[F32, float]:
        third = self._spec.side_px // 3
        middle = face[:, third:-third, third:-third].reshape(3, -1).mean(axis=1)
        who = round((middle[0] - _FIRST) / _STEP)
        rng = np.random.default_rng(zlib.crc32(face.tobytes()))
        if self._spec.has_logit:
            embedding = np.random.default_rng([who, 3]).normal(size=DIM) + 0.1 * rng.normal(size=DIM)
            return embedding.astype(np.float32), float(rng.normal() + (10 if middle[2] > (_FAKE + _REAL) / 2 else 0))
        return (centre(who) + rng.normal(0, _SPREAD, IDENTITY_DIM)).astype(np.float32), float("nan")

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def scripted_models(bundle: Bundle, settings: LiveSettings, *, identity: bool = True) -> LiveModels:
    """The models of a bundle with scripted networks, calibrated on what they give."""
    rng = np.random.default_rng(1)
    ready = calibrated(bundle)
    ready.calibrations["logit"] = Calibration.fit(rng.normal(size=4000), np.arange(4000) % 200)
    return LiveModels(
        ready,
        ScriptedEngine(224, DIM),
        ScriptedEngine(150, IDENTITY_DIM) if identity else None,
        EveryFrame(ScriptedDetector()),
        settings,
    )


def source(frame: Picture) -> Source:
    """Where a frame came from."""
    return Source(topic="video.in", partition=3, offset=abs(frame.pts_ns) // 10**9, index=frame.index)


def enrolment(
    bundle: Bundle,
    name: str,
    who: int,
    *,
    stream: str = STREAM,
    artifact: bool = True,
    frames: int = 6,
    seed: int = 0,
) -> EnrolmentRecord:
    """A person's anchor from other footage."""
    rng = np.random.default_rng([seed, who, 5])
    pool = AnchorPool(
        embeddings=rng.normal(size=(frames, DIM if artifact else 0)).astype(np.float32),
        logits=rng.normal(size=frames).astype(np.float32) if artifact else np.full(frames, np.nan, np.float32),
        times_s=np.arange(float(frames)),
        origin=Origin.ENROLLED,
        identity=identities(who, frames, seed),
    )
    person = EnrolledPerson(name, pool, (), 5.0, created="2026-01-01T00:00:00+00:00")
    data = anchors_to_bytes(AnchorFile.of(stream, bundle, (person,)))
    return EnrolmentRecord(stream=stream, person=name, anchors=data, issued_ns=1, by="operator", id=f"{name}-{seed}")


def command(what: Command, person: int | str | None = None, stream: str = STREAM) -> CommandRecord:
    """An operator's command."""
    return CommandRecord(stream=stream, command=what, person=person, issued_ns=1, by="operator", id="c")


def state_record(sections: dict[str, object], last_pts_ns: int | None) -> StateRecord:
    """A record of a stream's sections."""
    return StateRecord(
        topic="video.in",
        partition=3,
        stream=STREAM,
        next_offset=0,
        last_pts_ns=last_pts_ns,
        decoder=b"",
        resume_offset=None,
        commands_offset=0,
        **sections,  # type: ignore[arg-type]
    )
