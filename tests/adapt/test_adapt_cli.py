"""The command, with the real face detector: pictures of ten "people" and tinted ones beside them."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import run

from difffake.bundle import Bundle
from difffake.errors import DataError, OutputError
from difffake.video import open_video

PEOPLE = 10


@pytest.fixture(scope="module")
def pictures(clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``real/`` and two tools' fakes, one folder a person: frames a second apart stand for people."""
    root = tmp_path_factory.mktemp("pictures")
    with open_video(clips["woman"], fps=1.0) as video:
        for number, frame in enumerate(video):
            if number == PEOPLE:
                break
            tinted = frame.image.astype(np.int64)
            tinted[..., 2] += 40
            for folder, image in (("real", frame.image), (f"tool{number % 2}", tinted.clip(0, 255).astype(np.uint8))):
                path = root / folder / f"p{number}" / "a.png"
                path.parent.mkdir(parents=True)
                assert cv2.imwrite(str(path), image[..., ::-1])
    return root


def test_folders_become_a_bundle_that_scans(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(
        "adapt", "--real", pictures / "real", "--fake", pictures / "tool0", "--fake", pictures / "tool1",
        "--bundle", tiny_bundle.path, "--out", tmp_path / "taught", "--use", "always", "--data-terms", "ours",
        "--cache", tmp_path / "cache", "--draws", "50", "--threads", "1", "--as-recorded",
        "--json", tmp_path / "figures.json", "--markdown", tmp_path / "report.md",
    )  # fmt: skip
    told = capsys.readouterr().out
    assert code == 0
    assert "artifact is read by supervised" in told
    taught = Bundle.load(tmp_path / "taught")
    assert taught.manifest.training["adapted"]["data"] == "ours"
    assert json.loads((tmp_path / "figures.json").read_text())["model"] == taught.model_id
    assert "| `supervised` |" in (tmp_path / "report.md").read_text()
    scanned = run("scan", pictures / "real" / "p0" / "a.png", "--bundle", tmp_path / "taught", "--quiet", "--json", "-")
    result = json.loads(capsys.readouterr().out)["results"][0]
    assert scanned == 0
    assert result["model_id"] == taught.model_id
    assert "artifact" in result["people"][0]["verdicts"]


def test_too_little_leaves_no_bundle(
    pictures: Path, tiny_bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(
        "adapt", "--real", pictures / "real" / "p0", "--fake", pictures / "tool0", "--bundle", tiny_bundle.path,
        "--out", tmp_path / "taught", "--cache", tmp_path / "cache", "--as-recorded", "--threads", "1",
    )  # fmt: skip
    assert code == DataError.exit_code
    assert "too little to learn from: 1 real videos" in capsys.readouterr().err
    assert not (tmp_path / "taught").exists()


def test_a_bundle_that_is_there_is_not_replaced_unasked(
    pictures: Path, tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (tiny_bundle.path / "manifest.json").read_bytes()
    code = run("adapt", "--real", pictures / "real", "--fake", pictures / "tool0", "--out", tiny_bundle.path)
    assert code == OutputError.exit_code
    assert "replace it with --overwrite" in capsys.readouterr().err
    assert (tiny_bundle.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), DataError.exit_code, "nothing to adapt to"),
        (("--real", "no-such-folder", "--fake", "."), DataError.exit_code, "is not a folder"),
        (("--data", "nonsense"), 2, "LAYOUT=DIR"),
        (("--data", "side-by-side=."), DataError.exit_code, "no real video"),
        (("--real", ".", "--fake", ".", "--crf", "99"), DataError.exit_code, "CRF of 99"),
        (("--real", ".", "--fake", ".", "--pseudo-share", "1"), DataError.exit_code, "share"),
        (("--real", ".", "--fake", ".", "--seed", "-1"), DataError.exit_code, "seed -1"),
        (("--real", ".", "--fake", ".", "--draws", "-1"), DataError.exit_code, "-1 draws"),
    ],
)
def test_wrong_usage_is_told(
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("adapt", *arguments, "--out", tmp_path / "x", "--bundle", tiny_bundle.path) == code
    assert message in " ".join(capsys.readouterr().err.split())
