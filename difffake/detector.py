"""The public door: load a model once, scan any number of videos and images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType, UnionType
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

import difffake
from difffake.anchors.file import AnchorFile
from difffake.bundle import Bundle
from difffake.crops import channels_first
from difffake.errors import ArgumentError, MediaChangedError, NoFaceError
from difffake.explain import explain, overlay
from difffake.faces import Reason
from difffake.faces.finder import FaceFinder, Finder
from difffake.judge import Findings, Judge, bands
from difffake.networks import EngineChoice, open_networks
from difffake.observe import FrameStatus, Observations, Progress, checked_picture, observe
from difffake.people import People
from difffake.reference import Enrolled
from difffake.results import Moment, ScanResult, Source
from difffake.scoring import Scorer
from difffake.settings import ScanSettings
from difffake.video import Frame, open_video
from engines.contract import Engine

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

#: Crops kept for a heat map: moments of several people compete for them.
_CROPS_PER_MAP = 4

_FACELESS_HINT = "check that faces are visible and upright; raise --analysis-side for small ones"
_DAMAGED_HINT = "copy or download it again, or play it: what is damaged shows no face"

#: Embeddings ``(N, D)`` and logits ``(N,)`` of faces -> their scores ``(N,)``.
ScoreFaces = Callable[[F32, F32], F64]
#: Called with the time reached and, where it is known, the time at which the scan will end, in seconds.
ScanProgress = Callable[[float, float | None], None]


class Detector:
    """A loaded bundle with its engine and a face detector; use as a context manager, or call `close`.

    >>> with Detector.load() as detector:                        # doctest: +SKIP
    ...     print(detector.scan("clip.mp4").summary())
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        finder: Finder,
        settings: ScanSettings | None = None,
        identity_engine: Engine | None = None,
        model_id: str | None = None,
    ) -> None:
        self._bundle, self._engine, self._finder = bundle, engine, finder
        self._identity_engine = identity_engine
        self._model_id = model_id or bundle.model_id
        self.settings = settings or ScanSettings()
        self._scorer = Scorer(bundle)

    @classmethod
    def load(
        cls, bundle: str | Path | None = None, settings: ScanSettings | None = None, engines: EngineChoice | None = None
    ) -> Self:
        """Load a bundle, the shipped one by default, to run on ``engines``, ONNX Runtime on the CPU by default.

        One detector may be used by several threads at once. Another process loads its own: networks cannot be sent to
        it, nor are they usable there after a fork.

        Raises:
            ArgumentError: arguments of other kinds.
            BundleError: the bundle is missing or damaged.
            EngineError: its network cannot be loaded, or the engine asked for cannot run here.
        """
        _check_kind("bundle", bundle, str | Path, "give the path of its folder")
        _check_kind("settings", settings, ScanSettings, "difffake.ScanSettings(fps=5.0, ...) makes them")
        _check_kind("engines", engines, EngineChoice, "difffake.networks.EngineChoice makes one")
        settings = settings or ScanSettings()
        loaded, engines = Bundle.load(bundle), engines or EngineChoice()
        finder = FaceFinder(
            settings.analysis_side_px,
            settings.whole_s,
            max_faces=settings.max_faces,
            threads=settings.threads,
            runtime=engines.detector,
        )
        networks = open_networks(loaded, engines, threads=settings.threads)
        return cls(loaded, networks.extractor, finder, settings, networks.identity, networks.model_id)

    @property
    def model_id(self) -> str:
        """Name and digest of the bundle, and the engines of its networks; see `difffake.networks`."""
        return self._model_id

    @property
    def bundle(self) -> Bundle:
        """The bundle behind the verdicts."""
        return self._bundle

    def observe(
        self,
        frames: Iterable[Frame],
        progress: Progress | None = None,
        people: People | None = None,
        *,
        is_still: bool = False,
        keep_crops: int = 0,
    ) -> Observations:
        """Find, track and embed the faces of frames, or of one still picture, without a verdict; see
        `difffake.observe.observe`."""
        rank = self._artifact(is_still=is_still)
        return observe(
            frames,
            self._finder,
            self._engine,
            self.settings,
            identity_engine=self._identity_engine,
            people=people,
            eye_distance=self._bundle.manifest.eye_distance,
            progress=progress,
            rank=rank,
            keep_crops=0 if rank is None else keep_crops,
        )

    def _artifact(self, *, is_still: bool) -> ScoreFaces | None:
        """Computes the score that is read as `artifact`; None where it needs more than the face itself."""
        name = self._bundle.manifest.readings(is_still=is_still).get("artifact")
        if name is None or self._scorer.spec(name).anchor != "none":
            return None
        return lambda embedding, logit: self._scorer.score(
            embedding, logit, np.arange(float(len(logit))), only=(name,)
        )[name]

    def _explain(self, found: Findings, seen: Observations, limit: int, *, is_still: bool) -> list[Moment]:
        """The moments, the first ``limit`` of `artifact` with a heat map where the crop of that very face was kept."""
        moments, left = [], limit
        artifact = self._artifact(is_still=is_still)
        if artifact is None:
            return found.moments

        def score(crops: U8) -> F64:
            embedded = self._engine.infer(channels_first(crops))
            return artifact(embedded.embedding, embedded.logit)

        for moment, row in zip(found.moments, found.moment_rows, strict=True):
            crop = seen.crops.get(row) if moment.evidence == "artifact" and left else None
            if crop is not None:
                left -= 1
                moment = msgspec.structs.replace(moment, heat_jpeg=overlay(crop, explain(crop, score)))
            moments.append(moment)
        return moments

    def scan(
        self,
        source: str | Path,
        on_progress: ScanProgress | None = None,
        *,
        anchors: AnchorFile | None = None,
        explained: int = 0,
    ) -> ScanResult:
        """Scan a video, an image or a live address.

        Args:
            source: a path or an address.
            on_progress: called while the scan goes on.
            anchors: people who are enrolled, from `difffake.anchors.file.load_anchors` with this detector's bundle.
            explained: how many of the most suspicious moments of `artifact` get a heat map, by 50 more faces each.

        Raises:
            ArgumentError: arguments of other kinds.
            NoFaceError: no face in it that can be scored.
            DiffFakeError: what `difffake.video.open_video` says about the source.
        """
        _check_request(on_progress, anchors, explained)
        settings = self.settings
        with open_video(source, fps=settings.fps, limits=settings.limits, stop_s=settings.duration_s) as video:
            ends = [s for s in (video.info.duration_s, settings.duration_s) if s is not None]

            def report(reached_s: float, _frames: int) -> None:
                if on_progress is not None:
                    on_progress(reached_s, min(ends, default=None))

            seen, enrolled = self._look(video, report, anchors, explained, is_still=video.info.kind == "image")
            warned = [*(anchors.warnings if anchors else ()), *video.warnings]
            fields = {name: getattr(video.info, name) for name in Source.__struct_fields__ if hasattr(video.info, name)}
            # A path that is no UTF-8 can be opened, but not written into JSON.
            given = None if video.path is None else str(video.path).encode(errors="replace").decode()
            sha256 = None
            try:
                sha256 = video.sha256()
            except MediaChangedError as error:  # a recording that goes on: what was seen of it stays true
                warned.append(f"changed: {error}: there is no digest of what was looked at")
            described = msgspec.convert(fields | {"name": video.name, "path": given, "sha256": sha256}, Source)
            hint = _DAMAGED_HINT if video.decode_errors else _FACELESS_HINT
        return self._result(described, seen, enrolled, explained, ends, warned, hint)

    def scan_frames(
        self,
        frames: U8 | Iterable[Frame],
        on_progress: ScanProgress | None = None,
        *,
        name: str = "frames",
        anchors: AnchorFile | None = None,
        explained: int = 0,
    ) -> ScanResult:
        """Scan pictures that are in memory already, each of them that is given: `scan` takes five of a second.

        Args:
            frames: one picture, RGB ``(H, W, 3) uint8``, or `difffake.Frame` s in order of time, which are dropped as
                they are looked at. One picture alone is judged as a still picture.
            on_progress, anchors, explained: see `scan`.
            name: what they are called in the result.

        Raises:
            ArgumentError: what is no picture (OpenCV's BGR cannot be told from RGB: turn it round before), no `Frame`,
                or no time; other arguments of other kinds.
            LimitExceededError: a picture larger than the settings allow.
            NoFaceError: no face in them that can be scored, or no frame.
            DataError: times go back.

        >>> picture = cv2.cvtColor(cv2.imread("face.png"), cv2.COLOR_BGR2RGB)      # doctest: +SKIP
        >>> print(detector.scan_frames(picture).summary())                         # doctest: +SKIP
        """
        _check_request(on_progress, anchors, explained)
        if not isinstance(name, str):
            raise ArgumentError(f"name: not {type(name).__name__}", hint="give a text")
        if not isinstance(frames, Iterable):
            raise ArgumentError(
                f"frames are one picture, or Frames, not {type(frames).__name__}",
                hint="give one picture, RGB (H, W, 3) uint8, or an iterable of difffake.Frame",
            )
        given = [Frame(0, 0.0, frames)] if isinstance(frames, np.ndarray) else frames
        sizes: list[tuple[int, int]] = []

        def checked() -> Iterator[Frame]:
            for frame in given:
                if not sizes:
                    picture = checked_picture(frame, self.settings.limits)
                    sizes.append((picture.height_px, picture.width_px))
                yield frame

        def report(reached_s: float, _frames: int) -> None:
            if on_progress is not None:
                on_progress(reached_s, None)

        seen, enrolled = self._look(checked(), report, anchors, explained, is_still=isinstance(frames, np.ndarray))
        ((height, width),) = sizes or [(0, 0)]
        described = Source(
            name=name.encode(errors="replace").decode(),
            kind="image" if len(seen.frame_status) == 1 else "video",
            sha256=None,
            container="memory",
            codec="rawvideo",
            width=width,
            height=height,
            rotation=0,
            fps=None,
            duration_s=None,
            pixel_format="rgb24",
            interlaced=False,
        )
        warned = list(anchors.warnings) if anchors else []
        return self._result(described, seen, enrolled, explained, [], warned, _FACELESS_HINT)

    def _look(
        self,
        frames: Iterable[Frame],
        progress: Progress,
        anchors: AnchorFile | None,
        explained: int,
        *,
        is_still: bool,
    ) -> tuple[Observations, dict[str, Enrolled]]:
        enrolled = {p.name: Enrolled.of(p) for p in anchors.people} if anchors is not None else {}
        known = People()
        for name, person in enrolled.items():
            if person.pool.has_identity and self._identity_engine is not None:
                known.enrol(name, person.pool.identities)
        seen = self.observe(frames, progress, known, is_still=is_still, keep_crops=_CROPS_PER_MAP * explained)
        return seen, enrolled

    def _result(
        self,
        source: Source,
        seen: Observations,
        enrolled: dict[str, Enrolled],
        explained: int,
        ends: list[float],
        warned: list[str],
        hint: str,
    ) -> ScanResult:
        if not seen.scored.any():
            raise _no_face(source.name, seen, warned, hint)
        is_still = source.kind == "image"
        judge = Judge(self._scorer, self._bundle.manifest.readings(is_still=is_still), self.settings, enrolled)
        found = judge.judge(seen)
        statuses = Counter(status.value for status in seen.frame_status)
        last_s = float(seen.frame_time_s[-1]) + 1 / self.settings.fps
        return ScanResult(
            difffake=difffake.__version__,
            model_id=self.model_id,
            source=source,
            settings=self.settings,
            frames_analysed=len(seen.frame_status),
            frames_by_status={s.value: statuses[s.value] for s in FrameStatus},
            coverage=statuses[FrameStatus.SCORED.value] / len(seen.frame_status),
            people=found.people,
            switches=found.switches,
            moments=self._explain(found, seen, explained, is_still=is_still),
            bands=bands(seen, min([last_s, *ends])),
            warnings=[*warned, *seen.warnings, *_crowd(seen, len(found.people))],
        )

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


def _check_kind(name: str, value: object, kind: type | UnionType, hint: str) -> None:
    """``None`` stands for what is not given."""
    if value is not None and not isinstance(value, kind):
        raise ArgumentError(f"{name}: not {type(value).__name__}", hint=hint)


def _check_request(on_progress: object, anchors: object, explained: object) -> None:
    """What is asked of a scan, before hours of it."""
    if on_progress is not None and not callable(on_progress):
        hint = "give a function of the time reached and of the end, which may be None"
        raise ArgumentError(f"on_progress: not {type(on_progress).__name__}", hint=hint)
    _check_kind("anchors", anchors, AnchorFile, "difffake.anchors.file.load_anchors(path, detector.bundle) reads them")
    if not isinstance(explained, int) or explained < 0:
        raise ArgumentError(f"explained: a number of moments, not {explained!r}", hint="give 0 or more")


def _no_face(name: str, seen: Observations, warned: list[str], hint: str) -> NoFaceError:
    frames = len(seen.frame_status)
    # A picture that was damaged shows no face either: who hears of one must hear of the other.
    also = "".join(f"; {warning}" for warning in warned[-2:])
    if not len(seen.track):
        return NoFaceError(f"{name}: no face in {frames} analysed frame{'s' * (frames != 1)}{also}", hint=hint)
    reasons = Counter(r.value for r in seen.reason if r is not Reason.OK)
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(3))
    return NoFaceError(
        f"{name}: {len(seen.track)} face{'s' * (len(seen.track) != 1)}, but none fit for scoring ({told}){also}",
        hint="give a sharper or larger picture of the face, seen from the front",
    )


def _crowd(seen: Observations, people: int) -> list[str]:
    left = len(set(seen.person[seen.scored & (seen.person >= 0)].tolist())) - people
    return [f"crowd: {left} faces more, seen more briefly, got no verdict (the limit max_people)"] if left else []
