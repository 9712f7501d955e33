"""The steps of an embedding network's parity report: torch, fp16 rounding, the engine; each against the fp32 ONNX.

Where the engine cannot run, for want of a device, the fp32 network stands in for it, rounded to half precision where
the engine computes in it; the report says that the engine itself did not run.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from difffake.bundle import Bundle
from difffake.errors import ParityError
from difffake.parity import ParityFaces, compare_embeddings
from difffake.parity_gate import SEARCH, ParityReport, ScoreParity, accept, failures
from engines.contract import U8, Embeddings, Precision
from engines.manifest import Comparison
from engines.mixed import Faults

if TYPE_CHECKING:
    from difffake.extractor import Extractor

_BATCH = 32


def judge(
    before: Embeddings,
    after: Embeddings,
    faces: ParityFaces,
    bundle: Bundle | None,
    *,
    reference: str,
    candidate: str,
    precision: Precision,
) -> Comparison:
    """Compare what two runs of a network gave for the same faces, and hold it to the gate of ``precision``.

    Raises:
        ParityError: a limit is broken; the message names the two, and every limit.
    """
    if before.embedding.shape != after.embedding.shape:
        raise ParityError(
            f"{candidate} gives {after.embedding.shape[1]} numbers a face, {reference} {before.embedding.shape[1]}",
            hint="they are not the same network: give the checkpoint that the bundle was made from",
        )
    report = compare_embeddings(before, after, faces, bundle, names=(reference, candidate), precision=precision)
    accept(report)
    return Comparison(
        reference=reference, candidate=candidate, pictures=len(faces), figures=figures(report), accepted=True
    )


def faults_against(before: Embeddings, faces: ParityFaces, bundle: Bundle | None) -> Faults:
    """Judges other embeddings of ``faces`` by `SEARCH`: the scores that stand for an evidence, and their p-values."""

    def faults(after: Embeddings) -> list[str]:
        return failures(compare_embeddings(before, after, faces, bundle, precision=Precision.BF16), SEARCH)

    return faults


def figures(report: ParityReport) -> dict[str, float | None]:
    """A report as plain numbers by name; of the scores, those that stand for an evidence."""
    found: dict[str, float | None] = {
        "cosine_min": report.cosine_min,
        "cosine_mean": report.cosine_mean,
        "embedding_error_max": report.embedding_error_max,
    }
    if report.logit_error_max is not None:
        found |= {"logit_error_p95": report.logit_error_p95, "logit_error_max": report.logit_error_max}
    for name in sorted(report.scores):
        found |= {f"{name}.{key}": value for key, value in _score_figures(report.scores[name]).items()}
    return found


def _score_figures(parity: ScoreParity) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        "faces": parity.faces,
        "spearman": parity.spearman,
        "shift_median": parity.shift_median,
        "shift_p95": parity.shift_p95,
        "bias_sd": parity.bias_sd,
        "p_shift_p95": parity.p_shift_p95,
        "p_shift_p95_tail": parity.p_shift_p95_tail,
    }
    for level, (before, after) in parity.alarms.items():
        found |= {f"alarms_{level}_before": before, f"alarms_{level}_after": after}
    return found


def embed_by_torch(extractor: Extractor, faces: U8) -> Embeddings:
    """Embed ``(N, 3, side, side) uint8`` in float32 on the CPU, as the network was trained."""
    torch: Any = importlib.import_module("torch")
    model = extractor.cpu().float().eval()
    embedding, logit = [], []
    with torch.inference_mode():
        for start in range(0, len(faces), _BATCH):
            found = model(torch.from_numpy(faces[start : start + _BATCH]))
            embedding.append(found[0].numpy())
            logit.append(found[1].numpy())
    return Embeddings(np.concatenate(embedding), np.concatenate(logit))
