"""A world small enough to reason about: videos of plain colour, and a detector that reads the colour as a face."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from difffake.bundle import Bundle, ScoreSpec, save_bundle
from difffake.calibration import Calibration
from difffake.density import GaussianMixture
from difffake.differential import Combination
from difffake.settings import ScanSettings
from difffake.video import Frame

FPS = 8
Colour = tuple[int, int, int]
WriteVideo = Callable[..., Path]


def write_video(
    path: Path,
    left: Sequence[Colour],
    right: Sequence[Colour] | None = None,
    *,
    size: tuple[int, int] = (64, 48),
    times: Sequence[float] | None = None,
) -> Path:
    """One colour a frame for the left half and one for the right (default: the same); (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "10", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for i, (a, b) in enumerate(zip(left, left if right is None else right, strict=True)):
            image = np.empty((height, width, 3), np.uint8)
            image[:, : width // 2], image[:, width // 2 :] = a, b
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            moment = i / FPS if times is None else times[i]
            frame.pts, frame.time_base = round(moment * 1000), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@dataclass(frozen=True)
class ColourFaces:
    frame: NDArray[np.int64]
    time_s: NDArray[np.float64]
    track: NDArray[np.int64]
    person: NDArray[np.int64]
    yaw_deg: NDArray[np.float32]
    embedding: NDArray[np.float32]
    logit: NDArray[np.float32]
    identity: NDArray[np.float32]


class ColourDetector:
    """Embedding: the mean colour / 25. Logit: its red. Black is no face, blue (0, 0, 200) a face too bad to use.

    Where the bundle has an identity network, green and blue are who it is.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.settings, self.model_id = bundle, ScanSettings(), bundle.model_id
        self.seen = 0

    def observe(self, frames: Iterable[Frame]) -> ColourFaces:
        rows = [(f.index, f.pts_s, f.image.reshape(-1, 3).mean(0) / 25.0) for f in frames]
        self.seen += len(rows)
        faces = [(i, t, c) for i, t, c in rows if c.max() > 1.0]
        colours = np.array([c for _, _, c in faces], np.float32).reshape(-1, 3)
        colours[(colours[:, 2] > 6) & (colours[:, 0] < 1)] = np.nan
        return ColourFaces(
            np.array([i for i, _, _ in faces], np.int64),
            np.array([t for _, t, _ in faces], np.float64),
            np.zeros(len(faces), np.int64),
            np.full(len(faces), -1, np.int64),
            np.zeros(len(faces), np.float32),
            colours,
            colours[:, 0],
            colours[:, 1 : 1 + self.bundle.manifest.identity_dim],
        )


def colour_bundle(folder: Path, identity: bytes | None = None) -> Bundle:
    mixture = GaussianMixture(np.ones(1), np.full((1, 3), 4.0), np.ones((1, 3)))
    steady = GaussianMixture(np.ones(1), np.zeros((1, 3)), np.full((1, 3), 2.0))
    scores = {
        "logit": ScoreSpec(evidence="artifact", kind="logit"),
        "density": ScoreSpec(evidence="artifact", kind="density", density="plain"),
        "signed_self": ScoreSpec(
            evidence="artifact", kind="differential", anchor="self", density="steady", combination=Combination.SIGNED
        ),
        "signed_anchor": ScoreSpec(
            evidence="anchor", kind="differential", anchor="given", density="steady", combination=Combination.SIGNED
        ),
        "logit_minus_anchor": ScoreSpec(evidence="anchor", kind="logit", anchor="given", minus_anchor_mean=True),
    }
    if identity is not None:
        scores["identity_stream"] = ScoreSpec(
            evidence="identity", kind="distance", anchor="given", embedding="identity"
        )
    calibration = Calibration.fit(np.arange(8.0), np.arange(8))
    return save_bundle(
        folder,
        extractor=b"colour",
        identity=identity,
        densities={"plain": mixture, "steady": steady},
        calibrations={"logit": calibration, "logit_minus_anchor": calibration},
        name="colour",
        backbone="none",
        side_px=224,
        dim=3,
        identity_dim=0 if identity is None else 2,
        eye_distance=0.28,
        normalisation="none",
        scores=scores,
        evidence={"artifact": "logit", "anchor": "logit_minus_anchor"},
        created="2026-01-01",
        git_revision="0",
        licence="Apache-2.0",
        training={},
    )
