"""Embeddings and an anchor -> every named score of a bundle -> p-values. Higher is more suspicious, always.

The names and what they mean stand in ``docs/architecture.md``; how each is computed stands in the bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorPool, choose_self_anchor
from difffake.bundle import Bundle, ScoreSpec
from difffake.calibration import Calibration
from difffake.differential import differential_log_density
from difffake.errors import BundleError

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
#: Faces whose squares are held at once.
_ROWS_AT_ONCE = 1024

#: K, the embeddings in an anchor (Stamnas & Sanchez 2025 take 8 of 40 frames).
ANCHOR_SIZE = 8


class Scorer:
    """Computes the scores that a bundle defines.

    >>> scorer = Scorer(bundle)                                                  # doctest: +SKIP
    >>> scores = scorer.score(embedding, logit, time_s, anchor=None)             # doctest: +SKIP
    >>> scorer.p_value("logit", scores["logit"])                                 # doctest: +SKIP
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._specs = bundle.manifest.scores

    @property
    def names(self) -> tuple[str, ...]:
        """Every score that the bundle defines."""
        return tuple(self._specs)

    def spec(self, name: str) -> ScoreSpec:
        """How the score is computed and which evidence it is."""
        return self._specs[name]

    def score(
        self,
        embedding: F32,
        logit: F32,
        time_s: F64,
        anchor: AnchorPool | None = None,
        identity: F32 | None = None,
        *,
        only: Collection[str] | None = None,
    ) -> dict[str, F64]:
        """Score the faces of one person in one clip.

        Args:
            embedding: ``(N, D) float32``, in order of time.
            logit: ``(N,) float32``.
            time_s: ``(N,)`` seconds.
            anchor: embeddings known to be the genuine person of this stream, for the scores that ask for it.
            identity: ``(N, I) float32`` of the identity network, NaN where there is none.
            only: the scores to compute; all of them when not given.

        Returns:
            name -> ``(N,) float64``. Scores against a given anchor are absent without one, or when it or the faces
            lack the embedding that they need. Self-anchored scores are
            NaN where the clip has fewer than two faces. A face that is itself in the self-anchor is compared with
            the other anchor faces only, so that it does not vouch for itself.
        """
        wanted = {name: spec for name, spec in self._specs.items() if only is None or name in only}
        features = self._project(embedding)
        chosen = None
        if any(spec.anchor == "self" for spec in wanted.values()):
            chosen = choose_self_anchor(time_s, features, logit, k=ANCHOR_SIZE, protocol="spread")
        scores: dict[str, F64] = {}
        for name, spec in wanted.items():
            if spec.embedding == "identity":
                if identity is not None and identity.shape[1] and anchor is not None and anchor.has_identity:
                    scores[name] = self._identity(spec, identity, anchor.identities)
            elif spec.anchor == "none":
                scores[name] = self._alone(spec, features, logit)
            elif spec.anchor == "self":
                scores[name] = self._against_self(spec, features, logit, chosen)
            elif anchor is not None and anchor.has_artifact:
                pool = self._project(anchor.embeddings)
                scores[name] = self._against(spec, features, logit, pool, anchor.logits)
        return scores

    def p_value(self, name: str, scores: F64) -> F64:
        """How often real footage scores at least this high, ``(N,)`` in (0, 1]; NaN stays NaN.

        The calibration is that of single frames. The mean over a window varies less between real clips than a frame
        does, so for windows the p-value errs to the side of caution.

        Raises:
            BundleError: the bundle holds no calibration for this score.
        """
        calibration = self.calibration(name)
        values = np.asarray(scores, np.float64)
        unknown = np.isnan(values)
        if not unknown.any():
            return calibration.p_value(values)
        p = np.full(values.shape, np.nan)
        p[~unknown] = calibration.p_value(values[~unknown])
        return p

    def calibration(self, name: str) -> Calibration:
        """What turns a score into p-values, where it is known to be a number.

        Raises:
            BundleError: the bundle holds no calibration for this score.
        """
        calibration = self._bundle.calibrations.get(name)
        if calibration is None:
            raise BundleError(
                f"the bundle has no calibration for {name}",
                hint=f"calibrated: {', '.join(sorted(self._bundle.calibrations))}",
            )
        return calibration

    def _identity(self, spec: ScoreSpec, identity: F32, pool: F32) -> F64:
        known = np.isfinite(identity).all(axis=1)
        if known.all():
            return self._differ(spec, identity, pool)
        scores = np.full(len(identity), np.nan)
        scores[known] = self._differ(spec, identity[known], pool)
        return scores

    def _project(self, embedding: F32) -> F32:
        return embedding if self._bundle.projection is None else self._bundle.projection(embedding)

    def _alone(self, spec: ScoreSpec, features: F32, logit: F32) -> F64:
        if spec.kind == "logit":
            return logit.astype(np.float64)
        if spec.kind == "supervised":
            return self._bundle.heads[str(spec.head)](features, logit)
        return -self._bundle.densities[str(spec.density)].log_density(features).astype(np.float64)

    def _against(self, spec: ScoreSpec, features: F32, logit: F32, pool: F32, pool_logit: F32) -> F64:
        if spec.kind in ("logit", "density", "supervised"):
            own = self._alone(spec, features, logit)
            if not spec.minus_anchor_mean:
                return own
            of_pool = self._alone(spec, pool, pool_logit)
            return own - (of_pool[_nearest(features, pool)] if spec.frames == "nearest" else of_pool.mean())
        if spec.kind == "supervised_difference":
            nearest = spec.frames == "nearest"
            changes = difference_to_nearest(features, pool) if nearest else features - pool.mean(axis=0)
            return self._bundle.heads[str(spec.head)](changes, np.zeros(len(changes), np.float32))
        return self._differ(spec, features, pool)

    def _differ(self, spec: ScoreSpec, features: F32, pool: F32) -> F64:
        if spec.frames == "nearest" and len(pool) > 1:
            nearest, scores = _nearest(features, pool), np.empty(len(features))
            for frame in np.unique(nearest):
                rows = nearest == frame
                scores[rows] = self._differ(spec, features[rows], pool[frame : frame + 1])
            return scores
        if spec.kind == "distance":
            return np.asarray(distances(features, pool).mean(axis=1), np.float64)
        mixture = self._bundle.densities[str(spec.density)]
        return -differential_log_density(mixture, features, pool, spec.combination, spec.l2).astype(np.float64)

    def _against_self(self, spec: ScoreSpec, features: F32, logit: F32, chosen: I64 | None) -> F64:
        if chosen is None or len(chosen) < 2:
            return np.full(len(features), np.nan)
        scores = self._against(spec, features, logit, features[chosen], logit[chosen])
        for row in chosen:
            others = chosen[chosen != row]
            scores[row] = self._against(
                spec, features[row : row + 1], logit[row : row + 1], features[others], logit[others]
            )[0]
        return scores


def difference_to_nearest(features: F32, pool: F32) -> F32:
    """``(N, D)`` minus, each, the nearest row of ``(K, D)``: ``(N, D)``."""
    changes: F32 = pool[_nearest(features, pool)]
    return np.subtract(features, changes, out=changes)


def _nearest(features: F32, pool: F32) -> I64:
    """Which row of ``(K, D)`` is nearest to each of ``(N, D)``: ``(N,)``."""
    return np.asarray(distances(features, pool).argmin(axis=1), np.int64)


def distances(features: F32, pool: F32) -> F32:
    """Euclidean distances ``(N, K)`` between rows of ``(N, D)`` and ``(K, D)``."""
    # In parts: the squares of a long video's faces are as large as all of its embeddings.
    parts = [features[start : start + _ROWS_AT_ONCE] for start in range(0, len(features), _ROWS_AT_ONCE)]
    lengths = np.concatenate([np.zeros(0, np.float32), *((part**2).sum(1) for part in parts)])
    squared = lengths[:, None] + (pool**2).sum(1)[None] - 2 * (features @ pool.T)
    return np.asarray(np.sqrt(np.maximum(squared, 0)), np.float32)
