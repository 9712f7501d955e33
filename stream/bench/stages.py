"""Each stage alone, on all cores, with the same frames: what they cost together is what no pipeline can go below."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorPool, Origin
from difffake.bundle import Bundle
from difffake.crops import Crops, NearPicture, channels_first, cut_out
from difffake.faces.finder import FaceFinder, FinderState, Found
from difffake.networks import EngineChoice, Networks, open_networks
from difffake.scoring import ANCHOR_SIZE, Scorer
from stream.bench.clips import Footage, headers
from stream.bench.clock import Moment, Spent
from stream.container import usable_cores
from stream.decode import DecodedFrame, DecodeSettings, Gear, Payload, StreamDecoder
from stream.live import LiveSettings

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

STAGES = ("decode", "find", "align", "extractor", "identity", "score")
BATCHES = (1, 4, 8)


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: ``frames`` went through it in batches of ``batch``."""

    name: str
    batch: int
    frames: int
    spent: Spent

    @property
    def cpu_ms(self) -> float:
        """Of the processor, for an analysed frame."""
        return 1e3 * self.spent.cpu_s / self.frames

    @property
    def wall_ms(self) -> float:
        """On the wall with all cores at it, for an analysed frame."""
        return 1e3 * self.spent.wall_s / self.frames


@dataclass(frozen=True, slots=True)
class Tools:
    """What the stages need, opened once."""

    bundle: Bundle
    finder: FaceFinder
    networks: Networks
    scorer: Scorer
    live: LiveSettings

    @classmethod
    def load(cls, bundle: Path | None, live: LiveSettings, engines: EngineChoice) -> Tools:
        """As `LiveModels.load`.

        Raises:
            BundleError, EngineError: see there.
        """
        loaded = Bundle.load(bundle)
        finder = FaceFinder(
            live.analysis_side_px,
            live.whole_s,
            live.still_s,
            max_faces=live.max_faces,
            threads=live.threads,
            runtime=engines.detector,
        )
        return cls(loaded, finder, open_networks(loaded, engines, threads=live.threads), Scorer(loaded), live)


@dataclass(slots=True)
class _Lane:
    """The work of one core: ``batch`` streams with the same footage."""

    tools: Tools
    batch: int
    decode_settings: DecodeSettings
    gear: Gear
    frames: list[DecodedFrame] = field(default_factory=list)
    near: list[list[NearPicture]] = field(default_factory=list)
    found: list[list[Found]] = field(default_factory=list)
    crops: list[list[Crops]] = field(default_factory=list)
    embedding: F32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    logit: F32 = field(default_factory=lambda: np.zeros(0, np.float32))
    identity: F32 = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def decode(self, source: Footage) -> None:
        """One stream; nothing is converted."""
        decoder = StreamDecoder(self.decode_settings)
        self.frames = []
        for offset, record in enumerate(source.records):
            payload = Payload(record.value, headers(record, 0), -1, offset)
            self.frames += decoder.decode(payload, self.gear).frames

    def find(self) -> None:
        """In a frame of each stream of the batch at once."""
        states = [FinderState()] * self.batch
        self.near, self.found = [], []
        for frame in self.frames:
            near = [NearPicture(frame.picture) for _ in states]
            found = self.tools.finder.find(near, [frame.pts_ns] * self.batch, states)
            states = [one.state for one in found]
            self.near.append(near)
            self.found.append(found)

    def align(self) -> None:
        """Cut out what was found."""
        spec, manifest = self.tools.networks.extractor.spec, self.tools.bundle.manifest
        has_identity = self.tools.networks.identity is not None
        self.crops = [
            [
                cut_out(
                    picture,
                    one.faces[: self.tools.live.max_faces],
                    spec.side_px,
                    eye_distance=manifest.eye_distance,
                    has_identity=has_identity,
                )
                for picture, one in zip(near, found, strict=True)
            ]
            for near, found in zip(self.near, self.found, strict=True)
        ]

    def extract(self) -> None:
        """Faces -> embeddings and logits."""
        results = [
            self.tools.networks.extractor.infer(channels_first(faces))
            for crops in self.crops
            if len(faces := np.concatenate([one.faces for one in crops]))
        ]
        self.embedding = _joined([result.embedding for result in results])
        self.logit = np.concatenate([np.zeros(0, np.float32), *(r.logit for r in results if r.logit is not None)])

    def identify(self) -> None:
        """Faces -> identity embeddings."""
        if self.tools.networks.identity is None:
            return
        self.identity = _joined(
            [
                self.tools.networks.identity.infer(channels_first(chips)).embedding
                for crops in self.crops
                if len(chips := np.concatenate([one.chips for one in crops]))
            ]
        )

    def score(self) -> None:
        """Every score that stands for an evidence, and its p-value, against an anchor, in one go."""
        n = len(self.embedding)
        if not n:
            return
        first = slice(0, min(ANCHOR_SIZE, n))
        identity = self.identity if len(self.identity) == n else None
        pool = AnchorPool(
            self.embedding[first],
            self.logit[first],
            np.arange(float(first.stop)),
            Origin.SELF,
            None if identity is None else identity[first],
        )
        names = set(self.tools.bundle.manifest.evidence.values())
        scores = self.tools.scorer.score(self.embedding, self.logit, np.arange(float(n)), pool, identity, only=names)
        for name, values in scores.items():
            self.tools.scorer.p_value(name, values)


def _joined(rows: Sequence[F32]) -> F32:
    return np.concatenate(rows) if rows else np.zeros((0, 0), np.float32)


def measure_stages(
    source: Footage,
    tools: Tools,
    *,
    fps: float = 2.0,
    gear: Gear = Gear.ANALYSE,
    threads: int = 0,
    batches: Sequence[int] = BATCHES,
    min_frames: int = 200,
) -> dict[str, Stage]:
    """Run the stages one after the other, each on all cores; of every stage the batch that costs least.

    Args:
        source: its frames are those of every stream.
        tools: networks of one thread each.
        threads: cores; 0 takes all that this process may use.
        min_frames: each stage works on at least so many per batch size.
    """
    threads = threads or usable_cores()
    cv2.setNumThreads(1)  # as a worker does: OpenCV's own threads would cost beside the lanes
    best: dict[str, Stage] = {}
    for batch in batches:
        settings = DecodeSettings(fps=fps, scrutinise_fps=fps)
        lanes = [_Lane(tools, batch, settings, gear) for _ in range(threads)]
        for stage in _once(source, lanes, min_frames, warm=batch == batches[0]):
            if stage.name not in best or stage.cpu_ms < best[stage.name].cpu_ms:
                best[stage.name] = stage
    return best


def _once(source: Footage, lanes: list[_Lane], min_frames: int, *, warm: bool) -> list[Stage]:
    def on_all(step: Callable[[_Lane], None]) -> Spent:
        # They begin together, so that every core is busy as long as it lasts; and not before the clock is read.
        are_there, go = threading.Barrier(len(lanes) + 1), threading.Event()

        def run(lane: _Lane) -> None:
            are_there.wait()
            go.wait()
            step(lane)

        futures = [pool.submit(run, lane) for lane in lanes]
        are_there.wait()
        before = Moment.now()
        go.set()
        for future in futures:
            future.result()
        return Moment.now().since(before)

    steps: dict[str, Callable[[_Lane], None]] = {
        "decode": lambda lane: lane.decode(source),
        "find": _Lane.find,
        "align": _Lane.align,
        "extractor": _Lane.extract,
        "identity": _Lane.identify,
        "score": _Lane.score,
    }
    spent: dict[str, Spent] = {}
    frames = dict.fromkeys(steps, 0)
    with ThreadPoolExecutor(len(lanes)) as pool:
        if warm:
            for step in steps.values():
                on_all(step)
        while not all(frames[name] >= min_frames for name in steps):
            for name, step in steps.items():
                now = on_all(step)
                spent[name] = spent[name] + now if name in spent else now
                # Decoding is of one stream a lane, whatever the batch.
                frames[name] += sum(len(lane.frames) * (1 if name == "decode" else lane.batch) for lane in lanes)
            if not lanes[0].frames:
                raise ValueError("no frame of this video is analysed")
    return [Stage(name, lanes[0].batch, frames[name], spent[name]) for name in steps]


def bound_fps(stages: dict[str, Stage], threads: int = 0) -> float:
    """Frames a second that no pipeline can beat on so many cores: the stages cost that much of the processor."""
    return (threads or usable_cores()) / sum(stage.cpu_ms for stage in stages.values()) * 1e3
