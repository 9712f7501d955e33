"""Observations of made-up streams: who is seen when, with embeddings around a centre of each person's own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tiny import DIM, IDENTITY_DIM

from difffake.bundle import Bundle
from difffake.calibration import Calibration
from difffake.faces import Reason
from difffake.observe import FrameStatus, Observations

FPS = 5.0
#: Standard deviation of an identity embedding's every dimension around its person's centre.
SPREAD = 0.05


def face_of(name: str) -> np.ndarray:
    """A person's identity, ``(IDENTITY_DIM,) float32``: far from everybody else's."""
    rng = np.random.default_rng(list(name.encode()))
    return rng.normal(size=IDENTITY_DIM).astype(np.float32)


def stream(*shots: str, seconds: float = 4.0, people: str | None = None, seed: int = 0) -> Observations:
    """One face a frame. Every shot names whose face it shows: "A", or "AB" when the face becomes B's half-way.

    ``people`` says as whom the shots' faces are known, a letter a shot; by default whoever is seen first in a shot.
    """
    rng = np.random.default_rng(seed)
    per_shot = int(seconds * FPS)
    n = per_shot * len(shots)
    shown = [shot[min(i * len(shot) // per_shot, len(shot) - 1)] for shot in shots for i in range(per_shot)]
    known = people or "".join(shot[0] for shot in shots)
    ids = {letter: i for i, letter in enumerate(dict.fromkeys(known))}
    shot = np.repeat(np.arange(len(shots)), per_shot)
    noise = rng.normal(scale=SPREAD, size=(n, IDENTITY_DIM))
    nothing = np.zeros(n, np.float32)
    return Observations(
        frame_time_s=np.arange(n) / FPS,
        frame_status=[FrameStatus.SCORED] * n,
        frame_reason=[""] * n,
        frame_of=np.arange(n),
        time_s=np.arange(n) / FPS,
        shot=shot,
        track=shot.copy(),
        person=np.array([ids[known[s]] for s in shot], np.int64),
        boxes_px=np.tile(np.array([10, 10, 90, 110], np.float32), (n, 1)),
        landmarks_px=np.tile(np.array([[35, 45], [65, 45], [50, 62], [38, 80], [62, 80]], np.float32), (n, 1, 1)),
        confidence=np.ones(n, np.float32),
        reason=[Reason.OK] * n,
        yaw_deg=nothing,
        pitch_deg=nothing,
        luma=nothing + 120,
        sharpness=nothing + 1,
        embedding=rng.normal(size=(n, DIM)).astype(np.float32),
        logit=rng.normal(size=n).astype(np.float32),
        identity=(np.stack([face_of(letter) for letter in shown]) + noise).astype(np.float32),
        names={},
        ambiguous={},
        thumbnails={i: b"\xff\xd8" + bytes([i % 256]) for i in range(0, n, 2)},
        warnings=[],
    )


def calibrated(bundle: Bundle) -> Bundle:
    """The bundle with identity calibrated on distances as `stream` makes them."""
    rng = np.random.default_rng(0)
    two = rng.normal(scale=SPREAD, size=(2, 4000, IDENTITY_DIM))
    apart = np.linalg.norm(two[0] - two[1], axis=1) * rng.uniform(0.9, 1.3, size=4000)
    natural = Calibration.fit(apart, np.arange(4000) % 200)
    own = {name: natural for name in bundle.calibrations if name.startswith("identity")}
    return replace(bundle, calibrations=bundle.calibrations | own)
