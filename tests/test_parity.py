"""The parity gate: what it measures, what it lets through and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from tiny import DIM, IDENTITY_SIDE_PX, SIDE_PX, write_tiny_bundle

from difffake.bundle import Bundle
from difffake.errors import DataError, ParityError
from difffake.parity import ParityFaces, compare, compare_embeddings, spearman
from difffake.parity_gate import GATES, SEARCH, ParityReport, accept, failures
from engines.contract import Embeddings, Precision
from engines.onnx import OnnxEngine

CLIPS, FRAMES = 60, 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("parity") / "tiny", identity=True)


@pytest.fixture(scope="module")
def clips() -> ParityFaces:
    """Clips of a few frames, each with as many fakes; the pictures are not looked at by `compare_embeddings`."""
    frame = np.tile(np.arange(FRAMES), 2 * CLIPS)
    clip = np.repeat(np.arange(CLIPS), 2 * FRAMES)
    family = np.tile(np.repeat([0, 1], FRAMES), CLIPS)
    return ParityFaces(np.zeros((len(frame), 3, 1, 1), np.uint8), clip, 0.5 * frame.astype(np.float64), family)


def embedded(faces: ParityFaces, seed: int = 0) -> Embeddings:
    """Everybody has a place, fakes lie off it."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(CLIPS, DIM))
    embedding = people[faces.clip] + 0.5 * rng.normal(size=(len(faces), DIM)) + faces.family[:, None]
    logit = embedding[:, 0] + 2.0 * faces.family
    return Embeddings(embedding.astype(np.float32), logit.astype(np.float32))


def moved(before: Embeddings, noise: float = 0.0, bias: float = 0.0) -> Embeddings:
    rng = np.random.default_rng(1)
    embedding = before.embedding + noise * rng.normal(size=before.embedding.shape)
    logit = before.logit + noise * rng.normal(size=before.logit.shape) + bias
    return Embeddings(embedding.astype(np.float32), logit.astype(np.float32))


def report_of(bundle: Bundle, clips: ParityFaces, noise: float = 0.0, bias: float = 0.0) -> ParityReport:
    before = embedded(clips)
    return compare_embeddings(before, moved(before, noise, bias), clips, bundle, precision=Precision.INT8)


def test_the_same_embeddings_pass_every_gate(bundle: Bundle, clips: ParityFaces) -> None:
    report = report_of(bundle, clips)
    assert set(report.scores) == {"logit", "density", "differential_self", "signed_anchor", "logit_minus_anchor"}
    assert set(report.shared_anchor) == {"signed_anchor", "logit_minus_anchor"}
    assert report.judged == ("logit", "signed_anchor")
    for parity in report.scores.values():
        assert parity.spearman == pytest.approx(1)
        assert (parity.shift_p95, parity.bias_sd, parity.p_shift_p95) == (0, 0, 0)
        assert parity.auc is not None
        assert parity.auc[0] == parity.auc[1]
    for gate in GATES.values():
        accept(report, gate)


def test_frames_of_an_anchor_are_no_test_of_it(bundle: Bundle, clips: ParityFaces) -> None:
    report = report_of(bundle, clips)
    assert report.scores["logit"].faces == CLIPS * FRAMES
    assert report.scores["signed_anchor"].faces == CLIPS * (FRAMES - 8)
    assert report.scores["signed_anchor"].fakes == CLIPS * FRAMES


def test_a_little_noise_passes_int8_and_not_fp32(bundle: Bundle, clips: ParityFaces) -> None:
    report = report_of(bundle, clips, noise=0.02)
    accept(report)
    with pytest.raises(ParityError, match="rank correlation"):
        accept(report, GATES[Precision.FP32])


def test_noise_is_refused_and_every_broken_limit_is_named(bundle: Bundle, clips: ParityFaces) -> None:
    report = report_of(bundle, clips, noise=1.0)
    faults = failures(report, GATES[Precision.INT8])
    assert any("cosine" in fault for fault in faults)
    assert any("logit: rank correlation" in fault for fault in faults)
    assert any("against the reference's anchors" in fault for fault in faults)
    with pytest.raises(ParityError) as caught:
        accept(report)
    assert all(fault in str(caught.value) for fault in faults)
    assert "--engine onnx" in caught.value.hint


def test_a_bias_that_keeps_every_rank_is_refused(bundle: Bundle, clips: ParityFaces) -> None:
    """The order of the scores is not enough: false alarms come from where they lie."""
    report = report_of(bundle, clips, bias=0.3)
    assert report.scores["logit"].spearman == pytest.approx(1)
    faults = failures(report, GATES[Precision.INT8])
    assert any("standard deviations" in fault for fault in faults)


def test_a_bias_of_all_scores_does_not_touch_those_minus_the_anchor(bundle: Bundle, clips: ParityFaces) -> None:
    report = report_of(bundle, clips, bias=0.3)
    assert report.scores["logit_minus_anchor"].bias_sd == pytest.approx(0, abs=1e-6)
    # ... unless the anchor was made by the other engine.
    assert report.shared_anchor["logit_minus_anchor"].bias_sd > 0.1


def test_more_false_alarms_are_refused(bundle: Bundle, clips: ParityFaces) -> None:
    before = embedded(clips)
    parity = report_of(bundle, clips).scores["logit"]
    worse = msgspec.structs.replace(parity, alarms={"0.01": (0.01, 0.0126)}, faces=100_000)
    report = msgspec.structs.replace(report_of(bundle, clips), scores={"logit": worse}, judged=("logit",))
    assert failures(report, GATES[Precision.INT8]) == [
        "logit: 1.26% of real faces have p <= 0.01, not 1.00% (may move 0.25%)"
    ]
    one_face = msgspec.structs.replace(worse, alarms={"0.01": (0.0, 1 / 500)}, faces=500)
    accept(msgspec.structs.replace(report, scores={"logit": one_face}))
    assert len(before) == len(clips)


def test_a_loss_of_auc_is_refused(bundle: Bundle, clips: ParityFaces) -> None:
    report = report_of(bundle, clips)
    worse = msgspec.structs.replace(report.scores["logit"], auc=(0.9, 0.89))
    report = msgspec.structs.replace(report, scores={"logit": worse}, judged=("logit",))
    assert failures(report, GATES[Precision.INT8]) == ["logit: AUC on fakes falls from 0.9000 to 0.8900"]


def test_numbers_that_are_not_finite_are_refused(bundle: Bundle, clips: ParityFaces) -> None:
    before = embedded(clips)
    after = moved(before)
    after.embedding[3, 2] = np.inf
    with pytest.raises(ParityError, match="not finite"):
        compare_embeddings(before, after, clips, bundle)


def test_int8_is_not_accepted_on_a_handful_of_faces_or_without_scores(bundle: Bundle, clips: ParityFaces) -> None:
    before = embedded(clips)
    few = Embeddings(before.embedding[:50], before.logit[:50])
    photos = ParityFaces.photos(clips.faces[:50])
    report = compare_embeddings(few, few, photos, bundle, precision=Precision.INT8)
    assert set(report.scores) == {"logit", "density"}
    with pytest.raises(ParityError, match="logit was compared on 50 real faces"):
        accept(report)
    bare = compare_embeddings(few, few, photos, precision=Precision.INT8)
    with pytest.raises(ParityError, match="no final score"):
        accept(bare)
    accept(bare, GATES[Precision.FP16])


def test_two_engines_are_run_on_the_same_faces(bundle: Bundle) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 3, SIDE_PX, SIDE_PX), np.uint8)
    with OnnxEngine(bundle.engine_path, threads=1) as one, OnnxEngine(bundle.engine_path, threads=1) as two:
        report = compare(one, two, ParityFaces.photos(pictures), bundle)
    assert (report.faces, report.cosine_min) == (5, pytest.approx(1))
    assert report.reference.startswith("onnxruntime")
    accept(report)
    assert msgspec.json.decode(msgspec.json.encode(report), type=ParityReport) == report


def test_an_identity_network_is_judged_by_the_identity_scores(bundle: Bundle) -> None:
    assert bundle.identity_path is not None
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (40, 3, IDENTITY_SIDE_PX, IDENTITY_SIDE_PX), np.uint8)
    faces = ParityFaces(pictures, np.repeat([0, 1], 20), np.tile(np.arange(20.0), 2), np.tile([0] * 15 + [1] * 5, 2))
    with OnnxEngine(bundle.identity_path, threads=1) as engine:
        report = compare(engine, engine, faces, bundle)
    assert report.judged == ("identity_enrolled", "identity_stream")
    assert report.scores["identity_stream"].faces == 2 * (15 - 8)
    assert report.logit_error_max is None
    accept(report, GATES[Precision.FP16])


def test_networks_of_another_kind_cannot_be_compared(bundle: Bundle) -> None:
    assert bundle.identity_path is not None
    pictures = np.zeros((1, 3, SIDE_PX, SIDE_PX), np.uint8)
    with (
        OnnxEngine(bundle.engine_path, threads=1) as one,
        OnnxEngine(bundle.identity_path, threads=1) as two,
        pytest.raises(ParityError, match="not the same network"),
    ):
        compare(one, two, ParityFaces.photos(pictures), bundle)


def test_refuses_arrays_that_do_not_match() -> None:
    with pytest.raises(DataError):
        ParityFaces(np.zeros((2, 3, 1, 1), np.uint8), np.zeros(1, np.int64), np.zeros(2), np.zeros(2, np.int64))
    with pytest.raises(DataError):
        ParityFaces.photos(np.zeros((0, 3, 1, 1), np.uint8))


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, np.float64).T
    found = spearman(a, b)
    if found is None:
        assert np.ptp(a) == 0 or np.ptp(b) == 0
    else:
        assert found == pytest.approx(float(spearmanr(a, b).statistic))


def test_parity_needs_no_torch() -> None:
    heavy = "{'torch', 'sklearn', 'scipy', 'nncf'}"
    code = f"import sys, difffake.parity; sys.exit(', '.join({heavy} & set(sys.modules)) or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_a_search_allows_less_than_the_gate(bundle: Bundle, clips: ParityFaces) -> None:
    """What is chosen to be just good enough on some faces would be refused on half of all others."""
    spread = float(embedded(clips).logit[clips.family == 0].std())
    between = report_of(bundle, clips, bias=0.04 * spread)
    assert not [fault for fault in failures(between, GATES[Precision.INT8]) if "logit: scores move" in fault]
    assert [fault for fault in failures(between, SEARCH) if "logit: scores move" in fault]
