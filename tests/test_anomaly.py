"""Every model of the comparison sees an obvious anomaly, and the comparison writes its table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from difffake.anomaly import ANOMALY_MODELS, MAX_SVM_ROWS
from difffake.errors import DataError, MissingExtraError

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "anomaly_models.py"


def changes(seed: int, count: int, shift: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 12)) * np.linspace(0.5, 2, 12) + shift


@pytest.mark.parametrize("name", list(ANOMALY_MODELS))
def test_unlike_changes_score_higher(name: str) -> None:
    model = ANOMALY_MODELS[name](0).fit(changes(0, 400, 0.0))

    natural, unlike = model.score(changes(1, 60, 0.0)), model.score(changes(2, 60, 2.5))

    assert natural.shape == (60,)
    assert (unlike[:, None] > natural).mean() > 0.95  # the AUC
    again = ANOMALY_MODELS[name](0).fit(changes(0, 400, 0.0))
    np.testing.assert_array_equal(again.score(changes(1, 60, 0.0)), natural)


@pytest.mark.parametrize("name", list(ANOMALY_MODELS))
def test_bad_data_is_refused(name: str) -> None:
    model = ANOMALY_MODELS[name](0)
    with pytest.raises(DataError, match="not fitted"):
        model.score(changes(1, 3, 0.0))
    broken = changes(0, 100, 0.0)
    broken[5, 5] = np.nan
    with pytest.raises(DataError, match="row 5"):
        model.fit(broken)
    with pytest.raises(DataError):
        model.fit(changes(0, 3, 0.0))
    with pytest.raises(DataError, match="row 5"):
        model.fit(changes(0, 100, 0.0)).score(broken)


def test_the_svm_is_fitted_on_a_bounded_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difffake.anomaly.MAX_SVM_ROWS", 50)
    assert MAX_SVM_ROWS > 50
    bounded = ANOMALY_MODELS["one_class_svm"](0).fit(changes(0, 400, 0.0))
    monkeypatch.undo()
    whole = ANOMALY_MODELS["one_class_svm"](0).fit(changes(0, 400, 0.0))
    # nu bounds the share of support vectors from below, so the score's level grows with the rows
    asked = changes(1, 20, 0.0)
    assert np.abs(bounded.score(asked)).max() < np.abs(whole.score(asked)).max()


@pytest.mark.parametrize("name", list(ANOMALY_MODELS))
def test_without_scikit_learn_the_extra_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("mixture", "svm", "preprocessing", "ensemble", "covariance"):
        monkeypatch.setitem(sys.modules, f"sklearn.{module}", None)
    with pytest.raises(MissingExtraError):
        ANOMALY_MODELS[name](0).fit(changes(0, 100, 0.0))


def test_the_comparison_writes_table_and_json(tmp_path: Path) -> None:
    data = tmp_path / "differences.npz"
    np.savez(
        data,
        train=changes(0, 200, 0.0),
        held_out_real=changes(1, 80, 0.0),
        pseudo_fake=changes(2, 80, 2.5),
    )

    command = [sys.executable, str(BENCHMARK), str(data), "--out", str(tmp_path / "out"), "--threads", "1"]
    subprocess.run(command, check=True, timeout=300)

    report = json.loads((tmp_path / "out.json").read_text())
    assert [row["model"] for row in report["models"]] == list(ANOMALY_MODELS)
    assert all(row["auc"] > 0.95 and row["fit_s"] > 0 for row in report["models"])
    assert report["counts"] == {"train": 200, "held_out_real": 80, "pseudo_fake": 80, "dim": 12}
    table = (tmp_path / "out.md").read_text()
    assert all(f"| {name} |" in table for name in ANOMALY_MODELS)
