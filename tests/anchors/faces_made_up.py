"""Made-up faces of made-up people, as the keeper and the enrolment take them."""

from __future__ import annotations

import numpy as np

from difffake.anchors import Candidates

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
