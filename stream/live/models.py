"""The networks of a worker, shared by all of its streams. What they see in a frame depends on it, and on where faces
were in the frame before it: never on the other frames of a batch."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from difffake.anchors.file import networks
from difffake.bundle import Bundle
from difffake.crops import Crops, NearPicture, channels_first, cut_out
from difffake.faces import Faces
from difffake.faces.finder import FaceFinder, Finder, FinderState, Found
from difffake.faces.quality import Quality
from difffake.networks import EngineChoice, EngineUse, open_networks
from difffake.picture import Picture
from difffake.scoring import Scorer
from engines.contract import Embeddings, Engine
from stream.alerts.portraits import shrunk
from stream.live.settings import LiveSettings
from stream.messages.state import MAX_STATE_BYTES
from stream.stages import Stage, Timed, untimed

__all__ = ["FinderState", "LiveModels", "Look", "LookFrame"]

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

#: Faces in a run; engines that take more at once get them seldom.
_WARM_FACES = 8


@dataclass(frozen=True, slots=True, eq=False)
class LookFrame:
    """A frame that is to be looked at: the picture, its PTS in ns, what the `Look` at the stream's frame before it
    said in `Look.finder`, or `FinderState()`."""

    picture: Picture
    pts_ns: int
    finder: FinderState


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the networks see in one frame: N faces, best first, as aligned arrays.

    Args:
        faces, quality: N rows each.
        embedding: ``(N, D) float32``; NaN where the face is not fit for it, as in the following.
        logit: ``(N,) float32``.
        identity: ``(N, I) float32``; I is 0 without an identity network.
        artifact, artifact_p: ``(N,) float64``, the score of `artifact` evidence and its p-value.
        finder: to be passed with the stream's next frame.
        is_cut: another shot begins with this frame.
        portraits: row of a face -> its aligned crop, made small; of those that are fit for the extractor.
    """

    faces: Faces
    quality: Quality
    embedding: F32
    logit: F32
    identity: F32
    artifact: F64
    artifact_p: F64
    finder: FinderState
    is_cut: bool
    portraits: dict[int, U8] = field(default_factory=dict)


class LiveModels:
    """Face finder, extractor, identity network and scorer; use as a context manager, or call `close`. Threads may
    share it, where the engines may be shared.

    Args:
        bundle: the model.
        engine: its extractor.
        identity_engine: its identity network, if it has one.
        finder: finds the faces.
        settings: bounds, batch sizes.
        model_id: names the bundle and the engines; the bundle's own by default.

    Raises:
        ValueError: settings with which the state of a stream could outgrow a record.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        identity_engine: Engine | None,
        finder: Finder,
        settings: LiveSettings | None = None,
        model_id: str | None = None,
    ) -> None:
        #: Of the bundle, and the engines of its networks; see `difffake.networks`.
        self.model_id = model_id or bundle.model_id
        self.bundle, self.scorer = bundle, Scorer(bundle)
        #: What runs each network, as far as `load` knows.
        self.engines: tuple[EngineUse, ...] = ()
        #: Takes the time of every run; set by whoever wants to know, before threads look.
        self.timed: Timed = untimed
        self._engine, self._identity_engine, self._finder = engine, identity_engine, finder
        self._settings = settings or LiveSettings()
        self.identity_dim = 0 if identity_engine is None else identity_engine.spec.dim
        if self._settings.state_bytes(engine.spec.dim, self.identity_dim) > MAX_STATE_BYTES:
            raise ValueError("max_people, max_anchors, max_enrolled and the anchor's min_frames allow states too large")
        #: Evidence -> its score; what needs an identity network is left out where there is none.
        self.evidence = {
            e: name
            for e, name in bundle.manifest.readings(is_still=False).items()
            if self.identity_dim or not e.startswith("identity")
        }
        artifact = self.evidence.get("artifact")
        # A score against frames of the same clip needs the clip as a whole.
        self.artifact = artifact if artifact and self.scorer.spec(artifact).anchor == "none" else None

    @classmethod
    def load(cls, bundle: Path | None, settings: LiveSettings, engines: EngineChoice | None = None) -> Self:
        """Load a bundle, the shipped one for None, to run on ``engines``, ONNX Runtime on the CPU by default.

        Raises:
            BundleError: the bundle is missing or damaged.
            EngineError: its network cannot be loaded, or the engine asked for cannot run here.
        """
        loaded, engines = Bundle.load(bundle), engines or EngineChoice()
        finder = FaceFinder(
            settings.analysis_side_px,
            settings.whole_s,
            settings.still_s,
            max_faces=settings.max_faces,
            threads=settings.threads,
            runtime=engines.detector,
        )
        opened = open_networks(loaded, engines, threads=settings.threads)
        models = cls(loaded, opened.extractor, opened.identity, finder, settings, opened.model_id)
        models.engines = opened.uses
        return models

    def warm(self, threads: int) -> None:
        """Run each network at its largest, on so many threads at once: what they need for that they keep, so that it is
        there from the beginning rather than from some busy moment on. Only where threads may look at once.

        Raises:
            EngineError: a network failed.
        """
        if not self.may_be_shared:
            return
        begin = threading.Barrier(threads)

        def run(_number: int) -> None:
            begin.wait()
            self._finder.warm()
            for engine in (self._identity_engine, self._engine):
                if engine is not None:
                    spec = engine.spec
                    engine.infer(np.zeros((min(spec.max_batch, _WARM_FACES), 3, spec.side_px, spec.side_px), np.uint8))

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(run, range(threads)))

    @property
    def may_be_shared(self) -> bool:
        """Whether several threads may look at once."""
        return self._engine.spec.is_shared and (self._identity_engine is None or self._identity_engine.spec.is_shared)

    @property
    def networks(self) -> str:
        """Which networks made the embeddings: those of others cannot be compared with them. Engines of one network
        can: none runs without a parity report that says that its scores mean the same (``docs/engines.md``)."""
        extractor, identity = networks(self.bundle)
        return f"{extractor}/{identity or ''}" if self.identity_dim else f"{extractor}/"

    def look(self, frames: Sequence[LookFrame]) -> list[Look]:
        """Find, align, judge and embed the faces of frames, each of another stream; keeps nothing.

        Frames go through the networks in runs of whole frames.

        Raises:
            EngineError: a network failed.
        """
        looks: list[Look] = []
        for start in range(0, len(frames), self._settings.detect_batch):
            run = [_near(frame) for frame in frames[start : start + self._settings.detect_batch]]
            looks += self._see(run, self._find(run))
        return looks

    def look_through(self, frames: Sequence[tuple[Picture, int]], finder: FinderState) -> list[Look]:
        """The same of frames of one stream, in order of time: pictures with their PTS, ns.

        Raises:
            EngineError: a network failed.
        """
        looks: list[Look] = []
        for start in range(0, len(frames), self._settings.detect_batch):
            run, found = [], []
            for picture, pts_ns in frames[start : start + self._settings.detect_batch]:
                run.append(_near(LookFrame(picture, pts_ns, finder)))
                found += self._find(run[-1:])
                finder = found[-1].state
            looks += self._see(run, found)
        return looks

    def _find(self, frames: Sequence[LookFrame]) -> list[Found]:
        began_s = time.perf_counter()
        found = self._finder.find([f.picture for f in frames], [f.pts_ns for f in frames], [f.finder for f in frames])
        self.timed(Stage.FIND, time.perf_counter() - began_s, len(frames))
        return found

    def _see(self, frames: list[LookFrame], found: Sequence[Found]) -> list[Look]:
        """Cut out, embed and judge; ``frames`` is empty afterwards: no picture waits for the networks."""
        side, eye_distance = self._engine.spec.side_px, self.bundle.manifest.eye_distance
        has_identity = self._identity_engine is not None
        faces = [f.faces[: self._settings.max_faces] for f in found]
        began_s = time.perf_counter()
        crops = [
            cut_out(frame.picture, of, side, eye_distance=eye_distance, has_identity=has_identity)
            for frame, of in zip(frames, faces, strict=True)
        ]
        frames.clear()
        good = np.concatenate([np.zeros(0, bool), *(c.quality.ok for c in crops)])
        self.timed(Stage.ALIGN, time.perf_counter() - began_s, len(good))
        embedding = np.full((len(good), self._engine.spec.dim), np.nan, np.float32)
        logit = np.full(len(good), np.nan, np.float32)
        identity = np.full((len(good), self.identity_dim), np.nan, np.float32)
        if good.any():
            result = self._infer(Stage.EXTRACTOR, self._engine, [c.faces for c in crops])
            embedding[good], logit[good] = result.embedding, result.logit
            if self._identity_engine is not None:
                identity[good] = self._infer(Stage.IDENTITY, self._identity_engine, [c.chips for c in crops]).embedding
        looks, start = [], 0
        for of, its, was in zip(faces, crops, found, strict=True):
            rows = slice(start, start + len(of))
            start += len(of)
            artifact, p = self._judge(embedding[rows], logit[rows], its.quality.ok)
            portraits = self._portraits(its)
            seen = embedding[rows], logit[rows], identity[rows]
            looks.append(Look(of, its.quality, *seen, artifact, p, was.state, was.is_cut, portraits))
        return looks

    def _portraits(self, crops: Crops) -> dict[int, U8]:
        if not self._settings.portraits:
            return {}
        rows = np.flatnonzero(crops.quality.ok).tolist()
        return {row: shrunk(crop) for row, crop in zip(rows, crops.faces, strict=True)}

    def _infer(self, stage: Stage, engine: Engine, faces: Sequence[U8]) -> Embeddings:
        began_s = time.perf_counter()
        batch = channels_first(np.concatenate(faces))
        result = engine.infer(batch)
        self.timed(stage, time.perf_counter() - began_s, len(batch))
        return result

    def _judge(self, embedding: F32, logit: F32, good: npt.NDArray[np.bool_]) -> tuple[F64, F64]:
        """The `artifact` score of each face and its p-value, frame by frame: the others of a run change nothing."""
        score, p_value = np.full(len(good), np.nan), np.full(len(good), np.nan)
        if self.artifact is not None and good.any():
            times = np.zeros(int(good.sum()))
            score[good] = self.scorer.score(embedding[good], logit[good], times, only=(self.artifact,))[self.artifact]
            p_value = self.scorer.p_value(self.artifact, score)
        return score, p_value

    def close(self) -> None:
        """Release the networks."""
        self._engine.close()
        if self._identity_engine is not None:
            self._identity_engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _near(frame: LookFrame) -> LookFrame:
    return LookFrame(NearPicture(frame.picture), frame.pts_ns, frame.finder)
