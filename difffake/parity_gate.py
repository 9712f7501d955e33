"""What a comparison of two engines found, the limits that it is held to, and the verdict on it.

Why the limits are what they are stands in ``docs/engines.md``.
"""

from __future__ import annotations

import msgspec

from difffake.errors import ParityError
from engines.contract import Precision

#: The p-values under which verdicts call evidence suspicious and strong (`difffake.settings.ScanSettings`).
LEVELS = (0.05, 0.01)
#: Below this p-value somebody looks; a face in the middle of all real ones may change its rank unseen.
TAIL_P = 0.1


class ScoreParity(msgspec.Struct, frozen=True, kw_only=True):
    """One score of the bundle, reference against candidate. All but ``hits`` and ``auc`` are of real faces alone.

    ``spearman`` rank correlation; ``shift_*`` the absolute difference in the score's own unit (nats for a log density);
    ``bias_sd`` the mean signed difference in standard deviations of the score; ``p_shift_p95`` the 95th percentile of
    |difference of p|, ``p_shift_p95_tail`` the same among faces with p <= 0.1 by either engine; ``alarms`` the share of
    real faces at or below each level, before and after; ``hits`` the same of fakes; ``auc`` before and after.
    """

    evidence: str
    faces: int
    fakes: int
    spearman: float | None
    shift_median: float
    shift_p95: float
    bias_sd: float
    p_shift_p95: float | None = None
    p_shift_p95_tail: float | None = None
    alarms: dict[str, tuple[float, float]] = {}
    hits: dict[str, tuple[float, float]] = {}
    auc: tuple[float, float] | None = None


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """How near a candidate comes to the reference.

    ``scores``: every score of the bundle, each engine with anchors of its own embeddings; ``shared_anchor``: the
    anchored ones again, with the candidate's faces held against the *reference's* anchors, as after a change of engine.
    ``judged``: the scores that stand for an evidence: what `accept` looks at.
    """

    reference: str
    candidate: str
    precision: Precision
    faces: int
    cosine_min: float
    cosine_mean: float
    embedding_error_max: float
    logit_error_p95: float | None
    logit_error_max: float | None
    scores: dict[str, ScoreParity]
    shared_anchor: dict[str, ScoreParity]
    judged: tuple[str, ...]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """Limits for `accept`.

    ``alarm_move``: by what share of a level the share of real faces below it may move, either way; one face always may.
    ``needs_scores``: refuse a report without final scores. ``min_faces``: real faces that each judged score needs.
    """

    cosine_min: float
    spearman: float
    p_shift_p95: float | None
    p_shift_p95_tail: float
    bias_sd: float
    alarm_move: float
    auc_loss: float
    min_faces: int
    needs_scores: bool


#: Written down before any int8 network was measured; see ``docs/engines.md`` for the reasons.
GATES: dict[Precision, Gate] = {
    Precision.FP32: Gate(
        cosine_min=0.9999, spearman=0.9999, p_shift_p95=0.002, p_shift_p95_tail=0.002, bias_sd=0.002, alarm_move=0.02,
        auc_loss=0.0005, min_faces=8, needs_scores=False,
    ),
    Precision.FP16: Gate(
        cosine_min=0.999, spearman=0.999, p_shift_p95=0.01, p_shift_p95_tail=0.01, bias_sd=0.02, alarm_move=0.1,
        auc_loss=0.002, min_faces=8, needs_scores=False,
    ),
    Precision.BF16: Gate(
        cosine_min=0.95, spearman=0.99, p_shift_p95=None, p_shift_p95_tail=0.02, bias_sd=0.05, alarm_move=0.25,
        auc_loss=0.005, min_faces=400, needs_scores=True,
    ),
    Precision.INT8: Gate(
        cosine_min=0.95, spearman=0.99, p_shift_p95=None, p_shift_p95_tail=0.02, bias_sd=0.05, alarm_move=0.25,
        auc_loss=0.005, min_faces=400, needs_scores=True,
    ),
}  # fmt: skip

#: What a search for the layers that must stay in float32 is held to, on faces of other people than those who judge:
#: half of what the gate allows, and p-values of all real faces, not of the suspicious ones alone, for these are few.
SEARCH = Gate(
    cosine_min=0.95, spearman=0.995, p_shift_p95=0.02, p_shift_p95_tail=0.01, bias_sd=0.025, alarm_move=0.125,
    auc_loss=0.0025, min_faces=100, needs_scores=True,
)  # fmt: skip


def accept(report: ParityReport, gate: Gate | None = None) -> None:
    """Return when the candidate may stand in for the reference.

    Args:
        report: what `compare` found.
        gate: the limits; those of the candidate's precision when not given.

    Raises:
        ParityError: it may not; the message names every limit that it breaks.
    """
    faults = failures(report, gate or GATES[report.precision])
    if faults:
        raise ParityError(
            f"{report.candidate} does not keep the scores of {report.reference}: {'; '.join(faults)}",
            hint="use the exact engine (--engine onnx), or compile again with more real faces, clips among them",
        )


def failures(report: ParityReport, gate: Gate) -> list[str]:
    """Say in words every limit of the gate that the report breaks; empty when it passes."""
    faults = []
    if report.cosine_min < gate.cosine_min:
        faults.append(f"an embedding has cosine {report.cosine_min:.4f} (limit {gate.cosine_min})")
    judged = {name: report.scores.get(name) for name in report.judged}
    if gate.needs_scores and not any(judged.values()):
        faults.append("no final score was compared")
    for name, parity in judged.items():
        if parity is None or parity.faces < gate.min_faces:
            if gate.needs_scores:
                found = 0 if parity is None else parity.faces
                faults.append(f"{name} was compared on {found} real faces (at least {gate.min_faces})")
            continue
        faults += _score_failures(name, parity, gate)
        if name in report.shared_anchor:
            faults += _score_failures(f"{name} against the reference's anchors", report.shared_anchor[name], gate)
    return faults


def _score_failures(name: str, parity: ScoreParity, gate: Gate) -> list[str]:
    faults = []
    if parity.spearman is not None and parity.spearman < gate.spearman:
        faults.append(f"{name}: rank correlation {parity.spearman:.4f} (limit {gate.spearman})")
    if abs(parity.bias_sd) > gate.bias_sd:
        faults.append(f"{name}: scores move by {parity.bias_sd:+.3f} standard deviations (limit {gate.bias_sd})")
    for what, value, limit in (
        ("p moves", parity.p_shift_p95, gate.p_shift_p95),
        (f"p moves below {TAIL_P}", parity.p_shift_p95_tail, gate.p_shift_p95_tail),
    ):
        if value is not None and limit is not None and value > limit:
            faults.append(f"{name}: {what} by {value:.3f} (95th percentile, limit {limit})")
    for level, (old, new) in parity.alarms.items():
        allowed = max(gate.alarm_move * float(level), 1.0 / parity.faces)
        if abs(new - old) > allowed + 1e-12:
            faults.append(f"{name}: {new:.2%} of real faces have p <= {level}, not {old:.2%} (may move {allowed:.2%})")
    if parity.auc is not None and parity.auc[0] - parity.auc[1] > gate.auc_loss:
        faults.append(f"{name}: AUC on fakes falls from {parity.auc[0]:.4f} to {parity.auc[1]:.4f}")
    return faults
