"""Made-up faces of made-up people, as the keeper and the enrolment take them."""

from __future__ import annotations

import numpy as np

from difffake.anchors import Candidates
from difffake.faces import Reason
from difffake.observe import FrameStatus, Observations

DIM, IDENTITY_DIM = 12, 128


def who(number: int) -> np.ndarray:
    """A person's place among identity embeddings, ``(128,)``; two of them are 0.7 apart."""
    place = np.zeros(IDENTITY_DIM)
    place[number] = 0.7 / 2**0.5
    return place


def candidates(times: object, identity: object = None, *, seed: int = 0, **fields: object) -> Candidates:
    """Good faces at these times, of ``who(0)`` with a natural noise unless other embeddings are given."""
    at = np.asarray(times, float)
    n, rng = len(at), np.random.default_rng(seed)
    given = {
        "embedding": rng.normal(0, 1, (n, DIM)),
        "logit": rng.normal(0, 1, n),
        "identity": who(0) + rng.normal(0, 0.2 / IDENTITY_DIM**0.5, (n, IDENTITY_DIM))
        if identity is None
        else identity,
        "yaw_deg": rng.normal(0, 10, n),
        "pitch_deg": rng.normal(0, 10, n),
        "luma": rng.normal(120, 10, n),
        "sharpness": rng.uniform(0.1, 1, n),
        "artifact_p": rng.uniform(0.1, 1, n),
        "good": np.ones(n, bool),
    }
    return Candidates(time_s=at, **(given | fields))  # type: ignore[arg-type]


def observed(
    frame_of: object,
    identity: np.ndarray | None = None,
    *,
    fps: float = 5.0,
    frames: int | None = None,
    reason: Reason | list[Reason] = Reason.OK,
    size_px: object = 100.0,
    seed: int = 0,
) -> Observations:
    """Observations of faces in these frames, of ``who(0)`` unless embeddings are given; unfit ones are not embedded."""
    of = np.asarray(frame_of, np.int64)
    n, count = len(of), int(of.max(initial=-1)) + 1 if frames is None else frames
    reasons = [reason] * n if isinstance(reason, Reason) else reason
    faces = candidates(of / fps, identity, seed=seed)
    known = np.array([r is Reason.OK for r in reasons], bool)
    size = np.broadcast_to(np.asarray(size_px, np.float32), n)
    return Observations(
        frame_time_s=np.arange(count) / fps,
        frame_status=[FrameStatus.SCORED] * count,
        frame_reason=[""] * count,
        frame_of=of,
        time_s=of / fps,
        shot=np.zeros(n, np.int64),
        track=np.zeros(n, np.int64),
        person=np.zeros(n, np.int64),
        boxes_px=np.stack([np.zeros(n), np.zeros(n), size, size], axis=1).astype(np.float32),
        landmarks_px=np.zeros((n, 5, 2), np.float32),
        confidence=np.ones(n, np.float32),
        reason=reasons,
        yaw_deg=faces.yaw_deg,
        pitch_deg=faces.pitch_deg,
        luma=faces.luma,
        sharpness=faces.sharpness,
        embedding=np.where(known[:, None], faces.embedding, np.nan).astype(np.float32),
        logit=np.where(known, faces.logit, np.nan).astype(np.float32),
        identity=np.where(known[:, None], faces.identity, np.nan).astype(np.float32),
        names={},
        ambiguous={},
        thumbnails={},
        warnings=[],
    )
