from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import typer
from tiny import IDENTITY_DIM, tiny_identity, write_tiny_bundle
from typer.testing import CliRunner

from difffake.anchors import AnchorPool, Origin
from difffake.bundle import Bundle, Manifest
from difffake.errors import BundleError, DataError
from difffake.scoring import ANCHOR_SIZE, Scorer
from difffake.training.fit_identity import (
    ENROLLED,
    EVIDENCE,
    KINDS,
    LEVELS,
    STATISTICS,
    STREAM,
    IdentityFit,
    IdentitySettings,
    add_identity,
    fit_identity,
)
from difffake.training.identity_faces import DEGRADED, ORIGINAL, IdentityFaces
from difffake.training.identity_trials import enrolled_trials, stream_trials
from stream.commands_identity import fit_identity as fit_identity_command

FILMED, PHOTOGRAPHED, FRAMES = 12, 30, 20
ENCODE = "h264-crf28-veryfast"
SETTINGS = IdentitySettings(folds=3, pairs_per_person=20, impostors_per_trial=5)


def real_people(seed: int = 0) -> IdentityFaces:
    """People far apart, each changing a little from frame to frame and more from photo to photo."""
    rng = np.random.default_rng(seed)
    parts = []
    for person in range(FILMED + PHOTOGRAPHED):
        filmed = person < FILMED
        centre = rng.normal(size=IDENTITY_DIM)
        for footage in range(1 if filmed else 3):
            place = centre + rng.normal(0, 0.05 if filmed else 0.15, IDENTITY_DIM)
            for delivery, noise in ((ORIGINAL, 0.03), (ENCODE if filmed else DEGRADED, 0.05)):
                n = FRAMES if filmed else 1
                parts.append(
                    IdentityFaces(
                        identity=(place + rng.normal(0, noise, (n, IDENTITY_DIM))).astype(np.float32),
                        people=np.full(n, f"{'clips' if filmed else 'photos'}/{person}"),
                        footage=np.full(n, person * 10 + footage),
                        track=np.zeros(n, np.int64),
                        delivery=np.full(n, delivery),
                        time_s=np.arange(n) / 4 if filmed else np.full(n, np.nan),
                    )
                )
    whole = IdentityFaces(*(np.concatenate([getattr(p, f) for p in parts]) for f in IdentityFaces.__slots__))
    return whole[rng.permutation(len(whole))]


@pytest.fixture(scope="module")
def faces() -> IdentityFaces:
    return real_people()


@pytest.fixture(scope="module")
def fitted(faces: IdentityFaces) -> IdentityFit:
    return fit_identity(faces, SETTINGS)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "identity.onnx"
    path.write_bytes(tiny_identity())
    return path


def test_an_anchor_of_the_same_stream_never_judges_its_own_time(faces: IdentityFaces) -> None:
    trials = stream_trials(faces)
    assert {t.person for t in trials} == {f"clips/{i}" for i in range(FILMED)}
    for trial in trials:
        anchor, tested = faces[trial.anchor], faces[trial.rows]
        assert len(anchor) == ANCHOR_SIZE
        assert len(set(anchor.footage.tolist() + tested.footage.tolist())) == 1
        assert set(anchor.people.tolist()) == {trial.person} == set(tested.people.tolist())
        assert anchor.time_s.max() < tested.time_s.min() or tested.time_s.max() < anchor.time_s.min()
        assert set(anchor.delivery.tolist()) <= {ORIGINAL, *tested.delivery.tolist()}
    crossed = [t for t in trials if faces.delivery[t.anchor][0] != faces.delivery[t.rows][0]]
    assert crossed, "a stream may change its rate midway"


def test_a_photo_is_never_held_against_itself(faces: IdentityFaces) -> None:
    trials = enrolled_trials(faces)
    assert {t.person for t in trials} == {f"photos/{i}" for i in range(FILMED, FILMED + PHOTOGRAPHED)}
    assert {len(t.anchor) for t in trials} == {1, 2}
    for trial in trials:
        anchor, tested = faces[trial.anchor], faces[trial.rows]
        assert not set(anchor.footage.tolist()) & set(tested.footage.tolist())
        assert set(anchor.people.tolist()) == {trial.person} == set(tested.people.tolist())
        assert set(anchor.delivery.tolist()) == {ORIGINAL}
        assert set(tested.delivery.tolist()) == {ORIGINAL, DEGRADED}


def test_clips_of_one_person_are_other_footage_of_each_other(faces: IdentityFaces) -> None:
    people = np.where(faces.people == "clips/1", "clips/0", faces.people)
    trials = enrolled_trials(
        IdentityFaces(faces.identity, people, faces.footage, faces.track, faces.delivery, faces.time_s)
    )
    twice = [t for t in trials if t.person == "clips/0"]
    assert [(faces.footage[t.anchor][0], faces.footage[t.rows][0]) for t in twice] == [(0, 10), (10, 0)]


def test_calibrations_hold_for_people_who_were_not_there(fitted: IdentityFit) -> None:
    fresh = real_people(seed=7)
    scorer = Scorer(_bundle_of(fitted))
    for kind, trials in ((STREAM, stream_trials(fresh)), (ENROLLED, enrolled_trials(fresh))):
        scores = np.concatenate([_score(scorer, kind, fresh, t.anchor, t.rows) for t in trials])
        p = fitted.calibrations[kind].p_value(scores)
        assert 0.2 < np.mean(p < 0.5) < 0.7
        assert np.mean(p < 0.05) < 0.12
        assert np.mean(p < 0.01) < 0.04


def test_a_photo_taken_elsewhere_may_be_farther_than_a_frame_of_the_stream(fitted: IdentityFit) -> None:
    at = {kind: fitted.calibrations[kind].score_at([0.05])[0] for kind in KINDS}
    assert at[ENROLLED] > at[STREAM]


@pytest.mark.parametrize("statistic", sorted(STATISTICS))
def test_farther_is_never_less_suspicious(faces: IdentityFaces, statistic: str) -> None:
    fitted = fit_identity(faces, msgspec.structs.replace(SETTINGS, statistic=statistic))
    scorer = Scorer(_bundle_of(fitted))
    rng = np.random.default_rng(3)
    pool = faces.identity[stream_trials(faces)[0].anchor]
    for direction in rng.normal(size=(20, IDENTITY_DIM)):
        way = pool.mean(axis=0) + np.linspace(0, 4, 60)[:, None] * direction / np.linalg.norm(direction)
        for kind in KINDS:
            scores = _score_identity(scorer, kind, way.astype(np.float32), pool)
            # Inside the pool itself a mean distance may fall a little; outside it never does.
            assert (np.diff(scores[5:]) >= 0).all()
            assert (np.diff(fitted.calibrations[kind].p_value(scores)[5:]) <= 0).all()


def test_others_are_found_and_the_figures_say_so(fitted: IdentityFit) -> None:
    for kind in KINDS:
        figures = fitted.figures[kind]
        assert set(figures["impostors_by_statistic"]) == set(STATISTICS)
        for power in figures["impostors_by_statistic"].values():
            assert power["auc"] > 0.99
            assert power["d_prime"] > 2
        assert figures["impostor_faces_below_p"]["0.05"] > 0.9
        shares = [figures["held_out_faces_below_p"][f"{level:g}"] for level in LEVELS]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] < 0.12
    assert fitted.figures[STREAM]["people"] == FILMED
    assert fitted.figures[ENROLLED]["people"] == PHOTOGRAPHED
    assert "held_out_windows_of_5_s_below_p" in fitted.figures[STREAM]
    # Twelve people cannot vouch for one in a thousand.
    assert fitted.figures[STREAM]["score_at_p"]["0.001"] is None


def test_a_person_weighs_the_same_however_long_he_is_seen(faces: IdentityFaces) -> None:
    """Twelve filmed people; one who changes wildly and is seen six times as long must not set the calibration."""
    own = np.flatnonzero(faces.people == "clips/3")
    noise = np.random.default_rng(1).normal(0, 2, (len(own), IDENTITY_DIM))
    wild = IdentityFaces(faces.identity.copy(), faces.people, faces.footage, faces.track, faces.delivery, faces.time_s)
    wild.identity[own] += noise.astype(np.float32)
    longer = wild[np.concatenate([np.arange(len(wild)), *[own] * 5])]
    longer.time_s[len(wild) :] += np.repeat(np.arange(1, 6), len(own)) * FRAMES / 4
    medians = [fit_identity(f, SETTINGS).calibrations[STREAM].score_at([0.2])[0] for f in (faces, wild, longer)]
    assert medians[2] < 1.5 * medians[0]
    np.testing.assert_allclose(medians[2], medians[1], rtol=0.2)


def test_a_bundle_keeps_all_it_had_and_gains_identity(fitted: IdentityFit, network: Path, tmp_path: Path) -> None:
    old = write_tiny_bundle(tmp_path / "old")
    new = add_identity(old, network, fitted, tmp_path / "new", training={"network_licence": "CC0"})
    assert new.model_id != old.model_id
    assert new.identity_path is not None
    assert new.identity_path.read_bytes() == network.read_bytes()
    assert new.engine_path.read_bytes() == old.engine_path.read_bytes()
    assert new.manifest.name == old.manifest.name
    assert new.manifest.identity_dim == IDENTITY_DIM
    assert new.manifest.evidence == old.manifest.evidence | EVIDENCE
    assert set(new.manifest.scores) == set(old.manifest.scores) | set(KINDS)
    assert new.manifest.training["data"] == old.manifest.training["data"]
    assert new.manifest.training["identity"]["network_licence"] == "CC0"
    assert new.manifest.training["identity"][STREAM]["people"] == FILMED
    for name, calibration in old.calibrations.items():
        np.testing.assert_array_equal(new.calibrations[name].scores, calibration.scores)
    for name, density in old.densities.items():
        np.testing.assert_array_equal(new.densities[name].means, density.means)


def test_identity_can_be_fitted_again_in_place(fitted: IdentityFit, network: Path, tmp_path: Path) -> None:
    once = add_identity(write_tiny_bundle(tmp_path / "b"), network, fitted, tmp_path / "b", training={})
    again = add_identity(once, network, fitted, tmp_path / "b", training={"data": "other"})
    assert again.model_id == once.model_id
    assert again.manifest.training["identity"]["data"] == "other"
    assert Bundle.load(tmp_path / "b").model_id == again.model_id


def test_the_command_fits_kept_embeddings_again(faces: IdentityFaces, network: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(fit_identity_command)
    faces.save(tmp_path / "faces.npz")
    write_tiny_bundle(tmp_path / "old")
    words = ["nowhere", "nothing", "--bundle", tmp_path / "old", "--identity", network, "--out", tmp_path / "new"]
    words += ["--faces", tmp_path / "faces.npz", "--data", "drawn numbers", "--network", "a matrix, CC0"]
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert done.exit_code == 0
    made = Bundle.load(tmp_path / "new")
    assert made.model_id in done.output
    assert made.manifest.evidence["identity"] == STREAM
    assert made.manifest.training["identity"]["network"] == "a matrix, CC0"
    assert made.manifest.training["identity"]["data"] == "drawn numbers"


def test_the_command_takes_no_embeddings_of_another_network(
    faces: IdentityFaces, network: Path, tmp_path: Path
) -> None:
    faces.save(tmp_path / "faces.npz", network="of another")
    write_tiny_bundle(tmp_path / "old")
    words = ["nowhere", "nothing", "--bundle", tmp_path / "old", "--identity", network, "--out", tmp_path / "new"]
    app = typer.Typer()
    app.command()(fit_identity_command)
    with pytest.raises(DataError, match="another network"):
        CliRunner().invoke(app, [*map(str, words), "--faces", str(tmp_path / "faces.npz")], catch_exceptions=False)
    assert CliRunner().invoke(app, [*map(str, words), "--seed", "-1"], catch_exceptions=False).exit_code == 2


def test_a_network_of_another_size_is_refused(tmp_path: Path) -> None:
    fitted = fit_identity(real_people(), msgspec.structs.replace(SETTINGS, statistic="differential"))
    other = tmp_path / "other.onnx"
    other.write_bytes(tiny_identity(dim=IDENTITY_DIM + 1))
    with pytest.raises(BundleError, match="dimensions"):
        add_identity(write_tiny_bundle(tmp_path / "old"), other, fitted, tmp_path / "new", training={})


def test_too_few_people_are_named_with_what_is_missing(faces: IdentityFaces) -> None:
    with pytest.raises(DataError, match=STREAM) as caught:
        fit_identity(faces[~faces.is_video], SETTINGS)
    assert "clips" in caught.value.hint
    with pytest.raises(DataError, match=ENROLLED) as caught:
        fit_identity(faces[faces.is_video], SETTINGS)
    assert "photos" in caught.value.hint
    with pytest.raises(DataError, match="no face"):
        IdentityFaces.join([])


def test_parts_share_no_footage(faces: IdentityFaces) -> None:
    both = IdentityFaces.join([faces, faces])
    first, second = both.footage[: len(faces)], both.footage[len(faces) :]
    assert not set(first.tolist()) & set(second.tolist())
    np.testing.assert_array_equal(np.unique(second, return_inverse=True)[1], np.unique(first, return_inverse=True)[1])


def test_settings_name_the_statistics() -> None:
    with pytest.raises(ValueError, match="distance"):
        IdentitySettings(statistic="mood")


def _bundle_of(fitted: IdentityFit) -> Bundle:
    manifest = Manifest(
        format=2, name="", backbone="", side_px=0, dim=0, eye_distance=0.0, normalisation="", scores=fitted.scores,
        evidence={}, files={}, created="", git_revision="", licence="", training={},
    )  # fmt: skip
    return Bundle(Path(), manifest, fitted.densities, fitted.calibrations)


def _score(scorer: Scorer, kind: str, faces: IdentityFaces, anchor: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return _score_identity(scorer, kind, faces.identity[rows], faces.identity[anchor])


def _score_identity(scorer: Scorer, kind: str, identity: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    k, n = len(anchor), len(identity)
    pool = AnchorPool(
        np.zeros((k, 0), np.float32), np.full(k, np.nan, np.float32), np.zeros(k), Origin.ENROLLED, identity=anchor
    )
    return scorer.score(
        np.zeros((n, 0), np.float32), np.zeros(n, np.float32), np.arange(n, dtype=float), pool, identity
    )[kind]
