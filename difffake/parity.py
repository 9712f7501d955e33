"""The parity gate: does a compiled network still give the scores that its bundle was calibrated with?

Embeddings may differ as they like; what a user gets are scores and p-values, and a false-alarm budget that must hold.
So the gate looks at the bundle's final scores, of the network it was calibrated with and of the candidate, on the same
faces: their order, the share of real faces under the p-values that verdicts look at, and what pseudo-fakes lose.

`difffake.parity_gate.accept` gives the verdict. Needs no torch and no scikit-learn.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from difffake.anchors import AnchorPool, Origin, choose_self_anchor
from difffake.bundle import Bundle
from difffake.errors import DataError, ParityError
from difffake.parity_gate import LEVELS, TAIL_P, ParityReport, ScoreParity
from difffake.scoring import ANCHOR_SIZE, Scorer
from engines.contract import U8, Embeddings, Engine, Precision

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class ParityFaces:
    """Faces to compare two engines on: real ones and, where there are any, fakes of the same people.

    Args:
        faces: ``(N, 3, side, side) uint8`` RGB, aligned for the network.
        clip: ``(N,) int64``; rows with one number show one person in one clip, real and fake. A photo is a clip.
        time_s: ``(N,) float64`` within the clip.
        family: ``(N,) int64``: 0 for a real face, else which kind of fake (for an identity network: impostors).

    Raises:
        DataError: no face, or arrays of different lengths.
    """

    faces: U8
    clip: I64
    time_s: F64
    family: I64

    def __post_init__(self) -> None:
        count = len(self.faces)
        if not count or not self.clip.shape == self.time_s.shape == self.family.shape == (count,):
            raise DataError(
                f"{count} faces with {self.clip.shape} clips, {self.time_s.shape} times, {self.family.shape} families",
                hint="give at least one face, and a clip, a time and a family for each",
            )

    def __len__(self) -> int:
        return len(self.faces)

    @classmethod
    def photos(cls, faces: U8) -> ParityFaces:
        """Faces of which nothing is known but that they are real, each of another clip: no anchored score is made."""
        count = len(faces)
        return cls(faces, np.arange(count), np.zeros(count), np.zeros(count, np.int64))


def compare(reference: Engine, candidate: Engine, faces: ParityFaces, bundle: Bundle | None = None) -> ParityReport:
    """Run both engines on the same faces and compare what comes out.

    Args:
        reference: the network that the bundle was calibrated with, in float32.
        candidate: the compiled one.
        faces: at best of people whom the bundle was neither trained nor compiled with.
        bundle: its scores and calibrations; without one only embeddings and logits are compared.

    Raises:
        EngineError: an engine failed, or takes other faces.
        ParityError: the engines do not embed into the same space at all.
    """
    if (reference.spec.dim, reference.spec.has_logit) != (candidate.spec.dim, candidate.spec.has_logit):
        raise ParityError(
            f"{candidate.spec.backend} gives {candidate.spec.dim} numbers a face, "
            f"{reference.spec.backend} {reference.spec.dim}: they are not the same network",
            hint="compile the network of this bundle again",
        )
    return compare_embeddings(
        reference.infer(faces.faces),
        candidate.infer(faces.faces),
        faces,
        bundle,
        names=(reference.spec.backend, candidate.spec.backend),
        precision=candidate.spec.precision,
    )


def compare_embeddings(
    before: Embeddings,
    after: Embeddings,
    faces: ParityFaces,
    bundle: Bundle | None = None,
    *,
    names: tuple[str, str] = ("reference", "candidate"),
    precision: Precision = Precision.FP32,
) -> ParityReport:
    """`compare`, where the rows were embedded already: ``before`` by the reference, ``after`` by the candidate.

    Raises:
        ParityError: the candidate gave numbers that are not finite.
    """
    has_logit = bool(np.isfinite(before.logit).all())
    if not np.isfinite(after.embedding).all() or (has_logit and not np.isfinite(after.logit).all()):
        raise ParityError(
            f"{names[1]} gives numbers that are not finite",
            hint="the network overflows in this precision; keep its sensitive layers in float32, or use another engine",
        )
    norms = np.linalg.norm(before.embedding, axis=1) * np.linalg.norm(after.embedding, axis=1)
    cosine = (before.embedding * after.embedding).sum(axis=1) / np.maximum(norms, 1e-12)
    logit_error = np.abs(after.logit - before.logit) if has_logit else None
    scores: dict[str, ScoreParity] = {}
    shared: dict[str, ScoreParity] = {}
    judged: tuple[str, ...] = ()
    if bundle is not None:
        wanted = {n: s for n, s in bundle.manifest.scores.items() if (s.embedding == "artifact") == has_logit}
        old = _final_scores(before, faces, bundle, list(wanted), anchors=before)
        new = _final_scores(after, faces, bundle, list(wanted), anchors=after)
        mixed = _final_scores(after, faces, bundle, [n for n, s in wanted.items() if s.anchor == "given"], before)
        scores = _score_parities(old, new, faces, bundle)
        shared = _score_parities(old, mixed, faces, bundle)
        judged = tuple(sorted({name for name in bundle.manifest.evidence.values() if name in wanted}))
    return ParityReport(
        reference=names[0],
        candidate=names[1],
        precision=precision,
        faces=len(faces),
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        embedding_error_max=float(np.abs(after.embedding - before.embedding).max()),
        logit_error_p95=None if logit_error is None else float(np.percentile(logit_error, 95)),
        logit_error_max=None if logit_error is None else float(logit_error.max()),
        scores=scores,
        shared_anchor=shared,
        judged=judged,
    )


def _final_scores(
    embedded: Embeddings, faces: ParityFaces, bundle: Bundle, names: list[str], anchors: Embeddings
) -> dict[str, F64]:
    """Every named score of every face ``(N,)``, NaN where it cannot be made; frames of an anchor are no test of it."""
    found = {name: np.full(len(faces), np.nan) for name in names}
    for rows in _groups(faces.clip):
        real = rows[faces.family[rows] == 0]
        chosen = choose_self_anchor(
            faces.time_s[real], anchors.embedding[real], np.nan_to_num(anchors.logit[real]), k=ANCHOR_SIZE
        )
        pool = None if chosen is None else _pool(anchors, faces, real[chosen])
        for family in np.unique(faces.family[rows]):
            part = rows[faces.family[rows] == family]
            part = part[np.argsort(faces.time_s[part], kind="stable")]
            for name, values in _score(bundle, embedded, faces.time_s[part], part, pool, names).items():
                found[name][part] = values
        if chosen is not None:
            for name in names:
                if bundle.manifest.scores[name].anchor == "given":
                    found[name][real[chosen]] = np.nan
    return found


def _score(
    bundle: Bundle, embedded: Embeddings, time_s: F64, rows: I64, pool: AnchorPool | None, names: list[str]
) -> dict[str, F64]:
    scorer, embedding, logit = Scorer(bundle), embedded.embedding[rows], embedded.logit[rows]
    if np.isfinite(logit).all():
        return scorer.score(embedding, logit, time_s, pool, only=names)
    # An identity network: its scores ask for nothing of the extractor.
    blank = np.zeros((len(rows), bundle.manifest.dim), np.float32)
    return scorer.score(blank, np.zeros(len(rows), np.float32), time_s, pool, embedding, only=names)


def _pool(anchors: Embeddings, faces: ParityFaces, rows: I64) -> AnchorPool:
    embedding, logit = anchors.embedding[rows], anchors.logit[rows]
    if np.isfinite(logit).all():
        return AnchorPool(embedding, logit, faces.time_s[rows], Origin.SELF)
    return AnchorPool(embedding[:, :0], logit, faces.time_s[rows], Origin.SELF, identity=embedding)


def _groups(clip: I64) -> list[I64]:
    order = np.argsort(clip, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(clip[order])) + 1)


def _score_parities(
    old: dict[str, F64], new: dict[str, F64], faces: ParityFaces, bundle: Bundle
) -> dict[str, ScoreParity]:
    scorer = Scorer(bundle)
    found = {}
    for name, after in new.items():
        before = old[name]
        known = np.isfinite(before) & np.isfinite(after)
        real, fake = known & (faces.family == 0), known & (faces.family > 0)
        if real.sum() < 2:
            continue
        change = after[real] - before[real]
        figures = ScoreParity(
            evidence=bundle.manifest.scores[name].evidence,
            faces=int(real.sum()),
            fakes=int(fake.sum()),
            spearman=spearman(before[real], after[real]),
            shift_median=float(np.median(np.abs(change))),
            shift_p95=float(np.percentile(np.abs(change), 95)),
            bias_sd=float(change.mean() / max(float(before[real].std()), 1e-12)),
            auc=(_auc(before, real, fake), _auc(after, real, fake)) if fake.any() else None,
        )
        if name in bundle.calibrations:
            figures = _with_p_values(
                figures, *(scorer.p_value(name, values[rows]) for rows in (real, fake) for values in (before, after))
            )
        found[name] = figures
    return found


def _with_p_values(figures: ScoreParity, before: F64, after: F64, fake_before: F64, fake_after: F64) -> ScoreParity:
    shift = np.abs(after - before)
    tail = np.minimum(before, after) <= TAIL_P

    def below(pair: tuple[F64, F64]) -> dict[str, tuple[float, float]]:
        return {str(level): (float((pair[0] <= level).mean()), float((pair[1] <= level).mean())) for level in LEVELS}

    return msgspec.structs.replace(
        figures,
        p_shift_p95=float(np.percentile(shift, 95)),
        p_shift_p95_tail=float(np.percentile(shift[tail], 95)) if tail.any() else None,
        alarms=below((before, after)),
        hits=below((fake_before, fake_after)) if len(fake_before) else {},
    )


def _auc(values: F64, real: Mask, fake: Mask) -> float:
    """The Mann-Whitney statistic; ties count one half."""
    reals, fakes = int(real.sum()), int(fake.sum())
    ranks = _ranks(np.r_[values[real], values[fake]])
    return float((ranks[reals:].sum() - fakes * (fakes + 1) / 2) / (reals * fakes))


def spearman(a: F64, b: F64) -> float | None:
    """Rank correlation of ``(N,)`` and ``(N,)``, ties sharing their mean rank; None below three rows, or without order.

    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 15.0]))
    0.5
    """
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: F64) -> F64:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place], np.float64)
