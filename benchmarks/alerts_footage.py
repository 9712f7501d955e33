"""Real footage, and swaps made of it, as alerts see it: the mean log p-value of every second, by evidence.

Looking is slow and done once: `FeatureStore` keeps the embeddings. Everything from there on takes seconds.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difffake.demo.broadcast import cut_together, shot, swapped_from
from difffake.demo.swap import pick_donor
from difffake.detector import Detector
from difffake.errors import DiffFakeError
from difffake.evaluation import Codec, EvaluationProtocol, Item, Layout, Recompression, features_id, list_items
from difffake.evaluation.features import Features, FeatureStore, Sampling
from difffake.evaluation.layouts import FAKE, REAL
from difffake.evaluation.protocol import GenuineAnchor, genuine_anchor, main_subject
from difffake.folder import VIDEO_SUFFIXES
from difffake.results import EVIDENCES, Level
from difffake.scoring import ANCHOR_SIZE, Scorer
from difffake.video import open_video
from stream.alerts import Rarity
from stream.messages import FaceEvidence, HeldAgainst

F64 = NDArray[np.float64]

CONDITIONS: dict[str, Recompression | None] = {
    "as recorded": None,
    "H.264 CRF 23": Recompression(Codec.H264, 23),
    "H.264 CRF 35": Recompression(Codec.H264, 35),
}
#: Swaps, and recordings side by side, are looked at in these alone: it is the slow part.
FEWER = ("as recorded", "H.264 CRF 35")
FPS = 5.0
#: Looked at of every clip, s.
SECONDS = 20.0
#: The swap begins after the third that the anchor comes from.
SWAP_SHARE = 0.4
#: A second with fewer scored frames says nothing.
MIN_FRAMES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Stretch:
    """Consecutive seconds of one face.

    Args:
        name, person, condition: which clip, of whom, after which encode.
        log_p: ``(B, 3)``: mean natural log p-value of each second, evidences in the order of `EVIDENCES`; NaN where
            there is none.
    """

    name: str
    person: str
    condition: str
    log_p: F64


class Footage:
    """Looks at clips and judges them.

    Args:
        detector: with the bundle.
        cache: folder that keeps what was seen, and swaps that were made.
    """

    def __init__(self, detector: Detector, cache: Path) -> None:
        self._bundle, self._cache = detector.bundle, cache
        self._scorer, self._rarity = Scorer(detector.bundle), Rarity.of(detector.bundle)
        self._stores = {
            name: FeatureStore(
                cache, detector, features_id(detector), Sampling(FPS, round(FPS * SECONDS), recompression)
            )
            for name, recompression in CONDITIONS.items()
        }
        self.left_out: list[dict[str, str]] = []

    def real(
        self, items: Sequence[Item], people: dict[str, str], conditions: Sequence[str] = tuple(CONDITIONS)
    ) -> list[Stretch]:
        """Genuine clips after the third that their anchor comes from."""
        found = []
        for condition in conditions:
            for item in _told(items, condition):
                features = self._look(item, condition)
                if features is None:
                    continue
                person = people.get(item.video, item.person)
                found += self._judge(item.video, person, condition, features, features, None)
        return found

    def other_encode(self, items: Sequence[Item], people: dict[str, str], condition: str) -> list[Stretch]:
        """The anchor as recorded, the rest after another encode: an encoder that changes in mid-stream."""
        found = []
        for item in _told(items, f"{condition} after an anchor as recorded"):
            features, recorded = self._look(item, condition), self._look(item, next(iter(CONDITIONS)))
            if features is not None and recorded is not None:
                person = people.get(item.video, item.person)
                found += self._judge(item.video, person, condition, features, recorded, None)
        return found

    def swapped(self, items: Sequence[Item], people: dict[str, str]) -> list[Stretch]:
        """Each clip with the face of another person of them laid on after its anchor."""
        found = []
        for item in _told(items, "swaps made"):
            others = [o for o in items if people.get(o.video, o.person) != people.get(item.video, item.person)]
            donor = others[int(hashlib.sha256(item.video.encode()).hexdigest(), 16) % len(others)]
            try:
                path, swap_s = self._make(item.path, donor.path)
            except DiffFakeError as error:
                self.left_out.append({"clip": item.video, "condition": "swap", "reason": str(error)})
                continue
            made = Item(path, FAKE, item.person, f"{item.video} with {donor.video}")
            for condition in FEWER:
                features = self._look(made, condition)
                if features is not None:
                    person = people.get(item.video, item.person)
                    found += self._judge(made.video, person, condition, features, features, swap_s)
        return found

    def side_by_side(self, folder: Path) -> tuple[list[Item], list[Stretch]]:
        """The genuine halves, and the swapped halves against the anchors of these."""
        items = list_items(Layout.SIDE_BY_SIDE, folder).items
        genuine = [item for item in items if item.label == REAL]
        by_pair = {item.pair: item for item in genuine}
        found = []
        for condition in FEWER:
            for item in _told([i for i in items if i.label == FAKE and i.pair in by_pair], condition):
                features, source = self._look(item, condition), self._look(by_pair[item.pair], condition)
                if features is not None and source is not None:
                    found += self._judge(item.video, item.person, condition, features, source, None)
        return genuine, found

    def _make(self, source: Path, donor: Path) -> tuple[Path, float]:
        with open_video(source, fps=FPS) as video:
            last_s = max((frame.pts_s for frame in video), default=0.0)
        seconds = min(last_s, SECONDS)
        swap_s = SWAP_SHARE * seconds
        name = hashlib.sha256(f"{source.read_bytes()!r}{donor.read_bytes()!r}{seconds}".encode()).hexdigest()[:32]
        path = self._cache / "swaps" / f"{name}.mp4"
        if not path.exists():
            part = path.with_suffix(".part.mp4")
            cut_together(part, [shot(source, 0.0, seconds, swapped_from(pick_donor(donor), swap_s))])
            part.replace(path)
        return path, swap_s

    def _look(self, item: Item, condition: str) -> Features | None:
        try:
            features = self._stores[condition].features(item)
        except DiffFakeError as error:
            self.left_out.append({"clip": item.video, "condition": condition, "reason": str(error)})
            return None
        if len(features):
            return main_subject(features)
        self.left_out.append({"clip": item.video, "condition": condition, "reason": "no face good enough"})
        return None

    def _judge(
        self, name: str, person: str, condition: str, features: Features, source: Features, from_s: float | None
    ) -> list[Stretch]:
        anchor = genuine_anchor(source, ANCHOR_SIZE, EvaluationProtocol.HIJACK)
        if anchor is None:
            self.left_out.append({"clip": name, "condition": condition, "reason": "too short for an anchor"})
            return []
        keep = features.time_s > max(anchor.until_s, -np.inf if from_s is None else from_s) + 0.5 / FPS
        log_p = self._seconds(features.only(keep), anchor)
        return [Stretch(name, person, condition, log_p)] if len(log_p) else []

    def _seconds(self, features: Features, anchor: GenuineAnchor) -> F64:
        """Mean log p-values ``(B, 3)`` of the seconds with enough frames."""
        if not len(features):
            return np.zeros((0, len(EVIDENCES)))
        evidence = self._bundle.manifest.evidence
        scores = self._scorer.score(features.embedding, features.logit, features.time_s, anchor.pool, features.identity)
        log_p = np.full((len(features), len(EVIDENCES)), np.nan)
        for column, name in enumerate(EVIDENCES):
            values = scores.get(evidence.get(name, ""))
            if values is not None:
                log_p[:, column] = np.log(self._p_values(name, evidence[name], values))
        second = np.floor(features.time_s - features.time_s[0]).astype(np.int64)
        blocks = [log_p[second == s].mean(axis=0) for s in np.unique(second) if (second == s).sum() >= MIN_FRAMES]
        return np.array(blocks).reshape(-1, len(EVIDENCES))

    def _p_values(self, evidence: str, score: str, values: F64) -> F64:
        """As alerts take them."""
        p_values = self._scorer.p_value(score, values)
        said = [
            FaceEvidence(
                score=float(value),
                log_density=None,
                p_value=float(p),
                accumulated=None,
                level=Level.NOTHING,
                against=HeldAgainst.OWN if evidence != "artifact" else None,
            )
            for value, p in zip(values, p_values, strict=True)
        ]
        return np.array([self._rarity.p_value(evidence, one) for one in said])  # type: ignore[arg-type]


def clips_in(paths: Iterable[Path], skip: set[str]) -> list[Item]:
    """Real videos, or those of folders."""
    files = [f for p in paths for f in (sorted(p.iterdir()) if p.is_dir() else [p])]
    return [Item(f, REAL, f.stem, f.stem) for f in files if f.suffix.lower() in VIDEO_SUFFIXES and f.stem not in skip]


def _told(items: Sequence[Item], what: str) -> Iterable[Item]:
    for number, item in enumerate(items, 1):
        print(f"\r{number}/{len(items)} {what}: {item.video[-40:]:<40}", end="", file=sys.stderr, flush=True)
        yield item
    print(file=sys.stderr)
