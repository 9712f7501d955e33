"""A worker reads faces by the heads of an adapted bundle, as a scan does."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from live_show import SETTINGS, A, Show, only
from live_world import Shown, scripted_models
from tiny import DIM

from difffake.bundle import Bundle, ScoreSpec
from difffake.head import LinearHead


def adapted(bundle: Bundle, head: LinearHead) -> Bundle:
    """The bundle with `artifact` and `anchor` read by one head."""
    reads = {
        "artifact": ("supervised", ScoreSpec(evidence="artifact", kind="supervised", head="artifact")),
        "anchor": (
            "supervised_minus_anchor",
            ScoreSpec(evidence="anchor", kind="supervised", head="artifact", anchor="given", minus_anchor_mean=True),
        ),
    }
    manifest = msgspec.structs.replace(
        bundle.manifest,
        scores=bundle.manifest.scores | dict(reads.values()),
        evidence=bundle.manifest.evidence | {evidence: name for evidence, (name, _) in reads.items()},
    )
    calibrations = bundle.calibrations | {name: bundle.calibrations["logit"] for name, _ in reads.values()}
    return replace(bundle, manifest=manifest, calibrations=calibrations, heads={"artifact": head})


def reading_logits(bundle: Bundle) -> Bundle:
    evidence = bundle.manifest.evidence | {"artifact": "logit", "anchor": "logit_minus_anchor"}
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, evidence=evidence))


def test_a_worker_reads_by_heads(bundle: Bundle) -> None:
    # A head that is twice the logit, but for a trace of the embedding: what it must say is known.
    head = LinearHead(np.full(DIM, 1e-12), -1.0, 2.0)
    plain = Show(scripted_models(reading_logits(bundle), SETTINGS)).frames(12, Shown(A))
    taught = Show(scripted_models(adapted(bundle, head), SETTINGS)).frames(12, Shown(A))
    for before, after in zip(plain[-4:], taught[-4:], strict=True):
        was, now = only(before).evidence, only(after).evidence
        assert now["artifact"].score == pytest.approx(2 * was["artifact"].score - 1, abs=1e-5)
        assert now["anchor"].score == pytest.approx(2 * was["anchor"].score, abs=1e-5)
        assert now["artifact"].log_density is None
