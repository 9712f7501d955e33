"""Natural change of identity embeddings: how far a real person's face gets from his own anchor.

Two kinds, calibrated apart: against an anchor from the same stream (``identity_stream``), and against one from other
footage of the person, taken elsewhere and at another time (``identity_enrolled``). `difffake fit` knows nothing of
identity: after it, `difffake fit-identity` puts the network and these scores into the bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorPool, Origin
from difffake.bundle import Bundle, Manifest, ScoreSpec, save_bundle
from difffake.calibration import Calibration, combine_windows
from difffake.density import GaussianMixture, fit_density
from difffake.errors import DataError
from difffake.evaluation.metrics import roc
from difffake.scoring import Scorer
from difffake.training.identity_faces import IdentityFaces
from difffake.training.identity_trials import Trial, enrolled_trials, grouped, stream_trials
from engines.onnx import OnnxEngine

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

STREAM, ENROLLED = "identity_stream", "identity_enrolled"
KINDS = (STREAM, ENROLLED)
#: What the manifest calls the two evidences.
EVIDENCE = {"identity": STREAM, "identity_enrolled": ENROLLED}
DENSITY = "identity"
LEVELS = (0.05, 0.01, 0.001)
WINDOW_S = 5.0
_FALSE_ALARMS = (0.01, 0.001)
_REGULARISATION = 1e-3


def _spec(kind: str) -> ScoreSpec:
    density = DENSITY if kind == "differential" else None
    return msgspec.convert(
        {"evidence": "identity", "kind": kind, "anchor": "given", "embedding": "identity", "density": density},
        ScoreSpec,
    )


#: Statistics to choose from. All of them rise with the distance from the anchor, whatever the direction.
STATISTICS: dict[str, ScoreSpec] = {kind: _spec(kind) for kind in ("distance", "differential")}


class IdentitySettings(msgspec.Struct, frozen=True, kw_only=True):
    """How natural change is fitted.

    ``statistic`` is one of `STATISTICS`; ``pairs_per_person`` bounds what one person adds to the density;
    ``impostors_per_trial`` how many faces of others are held against each anchor, for the figures alone.
    """

    statistic: str = "distance"
    shrinkage: float = 0.1
    folds: int = 5
    pairs_per_person: int = 40
    max_anchors_per_photo: int = 4
    impostors_per_trial: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        if self.statistic not in STATISTICS or self.folds < 2:
            raise ValueError(f"statistic is one of {', '.join(STATISTICS)}, and folds are at least 2")


@dataclass(frozen=True, slots=True)
class IdentityFit:
    """What goes into a bundle: scores by name, their density where they need one, calibrations, and figures."""

    scores: dict[str, ScoreSpec]
    densities: dict[str, GaussianMixture]
    calibrations: dict[str, Calibration]
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Scored:
    """Cross-fitted scores of one kind and statistic: ``(N,)`` each, and ``(M,)`` of impostors."""

    value: F64
    person: I64
    trial: I64
    time_s: F64
    fold: I64
    impostor: F64


def fit_identity(faces: IdentityFaces, settings: IdentitySettings | None = None) -> IdentityFit:
    """Fit the two calibrations, and look at every statistic on people held out of its density.

    Args:
        faces: clips and photos of real people, in every delivery.
        settings: the statistic, folds and seed.

    Raises:
        DataError: too few people with a clip, or with several photos.
    """
    settings = settings or IdentitySettings()
    trials = {
        STREAM: stream_trials(faces),
        ENROLLED: enrolled_trials(faces, max_anchors_per_photo=settings.max_anchors_per_photo),
    }
    for kind, found in trials.items():
        people = {t.person for t in found}
        if len(people) < settings.folds:
            raise DataError(
                f"{len(people)} people are too few to fit {kind} in {settings.folds} folds",
                hint="give clips of more people" if kind == STREAM else "give people with several photos each",
            )
    names = np.unique([t.person for found in trials.values() for t in found])
    order = np.random.default_rng(settings.seed).permutation(len(names))
    number = {n: i for i, n in enumerate(names)}
    fold_of = {n: int(o) % settings.folds for n, o in zip(names, order, strict=True)}
    scored: dict[str, dict[str, _Scored]] = {}
    fold_densities = [_fit_density(faces, _without(trials, fold_of, fold), settings) for fold in range(settings.folds)]
    for statistic, spec in STATISTICS.items():
        scorers = [_scorer(spec, density) for density in fold_densities]
        scored[statistic] = {
            kind: _score(faces, found, scorers, number, fold_of, settings) for kind, found in trials.items()
        }
    chosen = scored[settings.statistic]
    calibrations = {kind: Calibration.fit(s.value, s.person) for kind, s in chosen.items()}
    spec = STATISTICS[settings.statistic]
    figures = {
        "statistic": settings.statistic,
        **{
            kind: {
                "people": len({t.person for t in trials[kind]}),
                "anchors": len(trials[kind]),
                "scores": len(chosen[kind].value),
                "score_at_p": _by_level(calibrations[kind].score_at(np.array(LEVELS))),
                **_held_out(chosen[kind], settings),
                "impostors_by_statistic": {name: _power(s[kind]) for name, s in scored.items()},
            }
            for kind in KINDS
        },
    }
    return IdentityFit(
        scores=dict.fromkeys(KINDS, spec),
        densities={DENSITY: _fit_density(faces, trials, settings)} if spec.density else {},
        calibrations=calibrations,
        figures=figures,
    )


def add_identity(
    bundle: Bundle, network: Path, fitted: IdentityFit, out: Path, *, training: Mapping[str, Any]
) -> Bundle:
    """Write the bundle again with the identity network and its scores; everything else stays what it was.

    Args:
        bundle: with or without identity; what it had of it is replaced.
        network: the ONNX file.
        fitted: by `fit_identity`, on embeddings of this network.
        out: the folder to write; may be the bundle's own.
        training: more for the manifest's ``training.identity``: data, licence of the network.

    Raises:
        DataError: the network's embeddings are not those that were fitted on.
        BundleError: the result is not consistent.
    """
    with OnnxEngine(network, threads=1) as engine:
        dim = engine.spec.dim
    manifest = bundle.manifest
    others = {name: spec for name, spec in manifest.scores.items() if spec.evidence != "identity"}
    kept = {str(spec.density) for spec in others.values() if spec.density}
    fields = msgspec.structs.asdict(manifest)
    for name in ("format", "files"):
        del fields[name]
    fields |= {
        "identity_dim": dim,
        "scores": others | fitted.scores,
        "evidence": {e: n for e, n in manifest.evidence.items() if e not in EVIDENCE} | EVIDENCE,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "training": manifest.training | {"identity": {**training, **fitted.figures}},
    }
    return save_bundle(
        out,
        extractor=bundle.engine_path.read_bytes(),
        identity=network.read_bytes(),
        densities={n: d for n, d in bundle.densities.items() if n in kept} | fitted.densities,
        calibrations={n: c for n, c in bundle.calibrations.items() if n in others} | fitted.calibrations,
        projection=bundle.projection,
        heads=bundle.heads,
        **fields,
    )


def _without(trials: dict[str, list[Trial]], fold_of: dict[str, int], fold: int) -> dict[str, list[Trial]]:
    return {kind: [t for t in found if fold_of[t.person] != fold] for kind, found in trials.items()}


def _fit_density(faces: IdentityFaces, trials: dict[str, list[Trial]], settings: IdentitySettings) -> GaussianMixture:
    """One Gaussian about zero of natural changes of both kinds, every person with as many.

    About zero and with one component, so that farther is never less suspicious, in any direction.
    """
    rng = np.random.default_rng(settings.seed)
    changes = []
    for found in trials.values():
        for _, own in grouped(np.array([t.person for t in found]), np.arange(len(found))):
            picked = rng.choice(own, settings.pairs_per_person)
            left = [rng.choice(found[i].rows) for i in picked]
            right = [rng.choice(found[i].anchor) for i in picked]
            changes.append(faces.identity[left] - faces.identity[right])
    change = np.concatenate(changes).astype(np.float64)
    return fit_density(
        np.concatenate([change, -change]),
        components=1,
        covariance="full",
        shrinkage=settings.shrinkage,
        reg=_REGULARISATION,
    )


def _scorer(spec: ScoreSpec, density: GaussianMixture) -> Callable[[F32, F32], F64]:
    """The statistic as a scan computes it: faces ``(N, I)`` and anchor ``(K, I)`` -> ``(N,)``."""
    manifest = Manifest(
        format=0, name="", backbone="", side_px=0, dim=0, eye_distance=0, normalisation="", scores={"identity": spec},
        evidence={}, files={}, created="", git_revision="", licence="", training={},
    )  # fmt: skip
    scorer = Scorer(Bundle(Path(), manifest, {DENSITY: density}, {}))

    def score(faces: F32, anchor: F32) -> F64:
        nothing, k = np.zeros((len(faces), 0), np.float32), len(anchor)
        pool = AnchorPool(
            np.zeros((k, 0), np.float32), np.full(k, np.nan, np.float32), np.zeros(k), Origin.ENROLLED, identity=anchor
        )
        return scorer.score(nothing, np.zeros(len(faces), np.float32), np.zeros(len(faces)), pool, faces)["identity"]

    return score


def _score(
    faces: IdentityFaces,
    trials: list[Trial],
    scorers: list[Callable[[F32, F32], F64]],
    number: dict[str, int],
    fold_of: dict[str, int],
    settings: IdentitySettings,
) -> _Scored:
    """Every trial by the density that has not seen its person; impostors are faces of others in the same trials."""
    rng = np.random.default_rng(settings.seed)
    tested = np.concatenate([t.rows for t in trials])
    values, impostors = [], []
    for trial in trials:
        score, anchor = scorers[fold_of[trial.person]], faces.identity[trial.anchor]
        others = rng.choice(tested, settings.impostors_per_trial)
        others = others[faces.people[others] != trial.person]
        found = score(faces.identity[np.concatenate([trial.rows, others])], anchor)
        values.append(found[: len(trial.rows)])
        impostors.append(found[len(trial.rows) :])
    sizes = [len(t.rows) for t in trials]
    return _Scored(
        value=np.concatenate(values),
        person=np.repeat([number[t.person] for t in trials], sizes),
        trial=np.repeat(np.arange(len(trials)), sizes),
        time_s=faces.time_s[tested],
        fold=np.repeat([fold_of[t.person] for t in trials], sizes),
        impostor=np.concatenate(impostors),
    )


def _held_out(scored: _Scored, settings: IdentitySettings) -> dict[str, Any]:
    """Share of faces and windows of people below each level, and of impostors, by calibrations without these people."""
    p, impostor_p = np.empty_like(scored.value), []
    windows: list[F64] = []
    window_people: list[int] = []
    for fold in range(settings.folds):
        out = scored.fold == fold
        if not out.any():
            continue
        calibration = Calibration.fit(scored.value[~out], scored.person[~out])
        p[out] = calibration.p_value(scored.value[out])
        impostor_p.append(calibration.p_value(scored.impostor))
        for trial in np.unique(scored.trial[out & np.isfinite(scored.time_s)]):
            own = scored.trial == trial
            _, means, _ = combine_windows(scored.time_s[own], scored.value[own], WINDOW_S)
            windows.append(calibration.p_value(means))
            window_people += [int(scored.person[own][0])] * len(means)
    found = {
        "held_out_faces_below_p": _shares(p, scored.person),
        "impostor_faces_below_p": _by_level([float(np.mean(np.concatenate(impostor_p) < level)) for level in LEVELS]),
    }
    if len(set(window_people)) >= settings.folds:
        found[f"held_out_windows_of_{WINDOW_S:g}_s_below_p"] = _shares(np.concatenate(windows), np.array(window_people))
    return found


def _shares(p: F64, people: npt.NDArray[np.integer]) -> dict[str, float | None]:
    """Mean over people of the share of their p-values below each level."""
    weights = _weights(people)
    return _by_level([float(weights @ (p < level)) for level in LEVELS])


def _weights(people: npt.NDArray[np.integer]) -> F64:
    _, member, sizes = np.unique(people, return_inverse=True, return_counts=True)
    return np.asarray(1.0 / (len(sizes) * sizes[member]), np.float64)


def _by_level(values: Iterable[float]) -> dict[str, float | None]:
    """Figures by level; None where a level is never reached, as few people cannot vouch for it."""
    return {f"{x:g}": round(float(v), 5) if np.isfinite(v) else None for x, v in zip(LEVELS, values, strict=True)}


def _power(scored: _Scored) -> dict[str, float]:
    """How well faces of others are told from the person's own, each person weighing the same."""
    labels = np.r_[np.zeros(len(scored.value)), np.ones(len(scored.impostor))].astype(np.int64)
    values = np.r_[scored.value, scored.impostor]
    weights = np.r_[_weights(scored.person), np.full(len(scored.impostor), 1.0 / len(scored.impostor))]
    curve = roc(labels, values, weights[None])
    real_mean = float(weights[: len(scored.value)] @ scored.value)
    real_variance = float(weights[: len(scored.value)] @ np.square(scored.value - real_mean))
    spread = np.sqrt((real_variance + scored.impostor.var()) / 2)
    figures = {
        "auc": curve.auc()[0],
        "eer": curve.eer()[0],
        "d_prime": (scored.impostor.mean() - real_mean) / spread,
        **{f"tpr_at_fpr_{rate:g}": curve.tpr_at(rate)[0] for rate in _FALSE_ALARMS},
    }
    return {name: round(float(value), 5) for name, value in figures.items()}
