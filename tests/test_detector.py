"""From a video to a verdict through the public door, with a bundle of one matrix."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from media_files import write_video
from rich.console import Console
from tiny import write_tiny_bundle

import difffake
from difffake.bundle import Bundle
from difffake.detector import Detector
from difffake.errors import NoFaceError
from difffake.faces import CenterFace, Faces, Reason
from difffake.faces.finder import EveryFrame, FaceFinder
from difffake.networks import EXTRACTOR, RUN_FACES, RUN_FACES_ALONE, open_networks
from difffake.observe import FrameStatus, observe
from difffake.report import render_report
from difffake.results import Level, ScanResult
from difffake.settings import ScanSettings
from difffake.video import Frame, open_video
from difffake.windows import simes
from engines.onnx import OnnxEngine
from stream.commands_scan import print_result


@pytest.fixture(scope="module")
def detector(tiny_bundle: Bundle) -> Iterator[Detector]:
    with difffake.Detector.load(tiny_bundle.path, ScanSettings(threads=1)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def woman(detector: Detector, clips: dict[str, Path]) -> ScanResult:
    return detector.scan(clips["woman"])


def write_cut(path: Path, *parts: tuple[Path, float]) -> Path:
    """Join the first seconds of clips into one, 25 frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for source, stop_s in parts:
            with open_video(source, fps=25, stop_s=stop_s) as video:
                for frame in video:
                    small = np.asarray(cv2.resize(frame.image, (640, 360)), np.uint8)
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(small)))
        container.mux(stream.encode())
    return path


def test_a_clip_of_one_person(woman: ScanResult, tiny_bundle: Bundle) -> None:
    assert woman.model_id == tiny_bundle.model_id
    assert woman.source.name == "WolfgangLanger_Pexels.mp4"
    assert woman.source.sha256 == "c048a3025af89148424af1ed2371cddee49af92c911d94da13989706d04baf3f"
    assert woman.coverage == 1.0
    assert woman.frames_analysed == pytest.approx(99, abs=1)
    (person,) = woman.people
    assert person.label == "person 1"
    assert [w.start_s for w in person.windows] == [0, 5, 10, 15]
    assert set(person.verdicts) == {"artifact", "anchor"}
    assert person.missing == {"identity": "not available in this bundle"}
    assert all(w.identity is None for w in person.windows)
    assert sum(w.artifact.frames for w in person.windows if w.artifact) == person.faces_scored
    assert woman.warnings == []


def test_evidence_is_apart_and_against_the_persons_own_beginning(woman: ScanResult) -> None:
    (person,) = woman.people
    end_s = person.anchors["anchor"].end_s
    assert end_s == pytest.approx(7 * 0.2, abs=0.15)
    early = [p for t, p in zip(person.frames.time_s, person.frames.anchor_p, strict=True) if t <= end_s]
    assert early
    assert set(early) == {None}
    first = person.windows[0]
    assert first.artifact is not None
    assert first.anchor is not None
    assert first.anchor.frames == sum(end_s < t < 5 for t in person.frames.time_s)
    assert first.anchor.log_density == -first.anchor.score
    assert first.artifact.log_density is None


def scan_otherwise(bundle: Bundle, path: Path, **settings: float) -> ScanResult:
    with Detector.load(bundle.path, ScanSettings(threads=1, **settings)) as detector:  # type: ignore[arg-type]
        return detector.scan(path)


def test_windows_within_the_anchor_are_warming_up(tiny_bundle: Bundle, clips: dict[str, Path]) -> None:
    result = scan_otherwise(tiny_bundle, clips["woman"], window_s=1, duration_s=6, anchor_gap_s=0.25)
    (person,) = result.people
    assert [w.missing.get("anchor") for w in person.windows[:3]] == ["warming up"] * 3
    assert [w.anchor is not None for w in person.windows] == [False, False, False, True, True, True]


def test_a_short_clip_has_no_anchor_and_says_so(tiny_bundle: Bundle, clips: dict[str, Path]) -> None:
    (person,) = scan_otherwise(tiny_bundle, clips["man"], anchor_gap_s=0.25).people
    told = re.fullmatch(
        r"no anchor: (\d) of 8 good frames \(.+\); it takes (.+) s more of .+", person.missing["anchor"]
    )
    assert told
    assert float(told[2]) == pytest.approx((8 - int(told[1])) * 0.25, abs=0.051)
    assert set(person.verdicts) == {"artifact"}


@pytest.mark.parametrize(
    ("name", "statuses"), [("face_noface", ["SCORED", "NO_FACE"]), ("noface_face", ["NO_FACE", "SCORED"])]
)
def test_bands_tell_clean_from_not_looking(
    detector: Detector, clips: dict[str, Path], name: str, statuses: list[str]
) -> None:
    result = detector.scan(clips[name])
    assert [b.status for b in result.bands] == statuses
    assert result.bands[0].end_s == result.bands[1].start_s
    assert result.bands[1].end_s == pytest.approx(result.source.duration_s, abs=1e-3)
    assert 0.2 < result.coverage < 0.6
    assert sum(result.frames_by_status.values()) == result.frames_analysed


def test_a_cut_starts_a_new_person(detector: Detector, clips: dict[str, Path], tmp_path: Path) -> None:
    result = detector.scan(write_cut(tmp_path / "cut.mp4", (clips["woman"], 2), (clips["man"], 2)))
    assert [p.label for p in result.people] == ["person 1", "person 2"]
    first, second = result.people
    assert first.end_s < 2 <= second.start_s


def test_two_faces_in_one_frame(
    detector: Detector, tiny_bundle: Bundle, clips: dict[str, Path], tmp_path: Path
) -> None:
    with open_video(clips["woman"], stop_s=0.1) as one, open_video(clips["man"], stop_s=0.1) as other:
        pair = np.hstack([next(iter(one)).image, next(iter(other)).image])
    path = tmp_path / "pair.png"
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(pair, cv2.COLOR_RGB2BGR))[1].tobytes())
    result = detector.scan(path)
    assert len(result.people) == 2
    assert result.source.kind == "image"
    assert all(set(p.verdicts) == {"artifact"} for p in result.people)
    single = scan_otherwise(tiny_bundle, path, max_faces=1)
    assert len(single.people) == 1


def test_a_still_picture_is_read_by_the_score_of_stills(
    clips: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    evidence = bundle.manifest.evidence | {"artifact_still": "density"}
    manifest = msgspec.structs.replace(bundle.manifest, evidence=evidence)
    (bundle.path / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with open_video(clips["woman"], stop_s=0.1) as video:
        image = next(iter(video)).image
    path = tmp_path / "still.png"
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes())
    with Detector.load(bundle.path, ScanSettings(threads=1, duration_s=1.0)) as detector:
        still, video_result = detector.scan(path, explained=1), detector.scan(clips["woman"])
        asked: list[str] = []
        score = detector._scorer.score
        detector._scorer.score = lambda *a, **k: asked.extend(k.get("only") or ()) or score(*a, **k)  # type: ignore[method-assign]
        detector.scan(path, explained=1)
    assert set(asked) == {"density"}  # and so is the heat map
    assert still.people[0].scores == {"artifact": "density"}
    assert video_result.people[0].scores["artifact"] == "logit"
    found = still.people[0].windows[0].artifact
    assert found is not None
    assert found.log_density == -found.score  # a density, where a logit has none
    print_result(Console(), still)
    assert "by density" in " ".join(capsys.readouterr().out.split())
    assert "artifact: density" in render_report(still)
    # No word of frames that a picture does not have.
    (line,) = [line for line in still.summary().splitlines() if "no anchor" in line]
    assert line.strip().startswith("anchor: no anchor: one picture")


def test_moments_are_apart_in_time_and_have_pictures(woman: ScanResult) -> None:
    for evidence in ("artifact", "anchor"):
        moments = [m for m in woman.moments if m.evidence == evidence]
        assert 1 < len(moments) <= ScanSettings().moments
        times = np.sort([m.time_s for m in moments])
        assert np.diff(times).min() >= 1.0
        assert all(m.thumbnail_jpeg and m.thumbnail_jpeg[:2] == b"\xff\xd8" for m in moments)
        assert [m.p_value for m in moments] == sorted(m.p_value for m in moments)


def test_results_survive_json(woman: ScanResult) -> None:
    again = msgspec.json.decode(woman.to_json(), type=ScanResult)
    assert again == woman
    assert "person 1" in woman.summary()
    assert woman.levels["artifact"] is woman.people[0].verdicts["artifact"].level


def test_two_scans_are_equal(detector: Detector, clips: dict[str, Path]) -> None:
    assert detector.scan(clips["man"]) == detector.scan(clips["man"])


def test_no_face_is_an_error_that_says_why(detector: Detector, clips: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(NoFaceError, match="no face in 20 analysed frames"):
        detector.scan(clips["no_face"])
    with open_video(clips["woman"], stop_s=0.1) as video:
        image = next(iter(video)).image
    small = np.asarray(cv2.resize(image, None, fx=0.15, fy=0.15, interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.full((360, 640, 3), 90, np.uint8)
    canvas[100 : 100 + small.shape[0], 200 : 200 + small.shape[1]] = small
    path = tmp_path / "small.png"
    path.write_bytes(cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))[1].tobytes())
    with pytest.raises(NoFaceError, match=r"none fit for scoring \(1 too small\)"):
        detector.scan(path)


def test_progress_reaches_the_end(detector: Detector, clips: dict[str, Path]) -> None:
    calls: list[tuple[float, float | None]] = []
    detector.scan(clips["man"], lambda reached_s, end_s: calls.append((reached_s, end_s)))
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert calls[-1][0] == pytest.approx(2.2, abs=0.1)
    assert all(c[1] == pytest.approx(2.4) for c in calls)


class FaceWhereSaid:
    """A detector that finds one face per picture where it is told, or none."""

    def __init__(self, faces: Faces) -> None:
        self._faces = faces
        self.batches: list[int] = []

    def detect(self, images: list[np.ndarray]) -> list[Faces]:
        self.batches.append(len(images))
        return [self._faces for _ in images]


def test_observations_are_aligned_and_bounded(tiny_bundle: Bundle, clips: dict[str, Path]) -> None:
    settings = ScanSettings(max_scored=10, fps=5)
    with open_video(clips["woman"], fps=5) as video, OnnxEngine(tiny_bundle.engine_path, threads=1) as engine:
        seen = observe(video, EveryFrame(CenterFace(threads=1)), engine, settings)
        again = engine.infer(np.zeros((1, 3, 224, 224), np.uint8))
    assert len(seen.time_s) == 10
    assert seen.warnings == ["cut: stopped after 10 faces, the limit max_scored"]
    assert seen.embedding.shape == (10, again.embedding.shape[1])
    assert np.isfinite(seen.embedding).all()
    np.testing.assert_array_equal(seen.time_s, seen.frame_time_s[seen.frame_of])
    assert set(seen.thumbnails) <= set(range(10))


def test_people_are_the_same_however_few_faces_a_network_takes_at_once(tmp_path: Path, clips: dict[str, Path]) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", identity=True)
    path = write_cut(tmp_path / "cut.mp4", (clips["woman"], 3), (clips["man"], 1), (clips["woman"], 3))
    settings, seen = ScanSettings(threads=1, analysis_side_px=320), []
    for most in (None, 32):
        networks, finder = open_networks(bundle, threads=1, max_batch=most), FaceFinder(320, 0.0, threads=1)
        detector = Detector(bundle, networks.extractor, finder, settings, networks.identity)
        with detector, open_video(path, fps=8) as video:
            seen.append(detector.observe(video))
    few, many = seen
    assert few.scored.sum() > 32
    assert len(np.unique(few.person)) == 2
    for name in ("person", "track", "shot", "embedding", "identity", "logit"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name))


def test_a_scan_keeps_its_runs_short(detector: Detector) -> None:
    """ONNX Runtime keeps what its largest run needed: 32 faces at once held 400 MiB more than four."""
    assert detector._engine.spec.max_batch == RUN_FACES_ALONE[EXTRACTOR]
    networks = open_networks(detector.bundle, threads=2)
    assert networks.extractor.spec.max_batch == RUN_FACES
    networks.close()


def test_faces_of_low_quality_are_kept_with_their_reason(tiny_bundle: Bundle) -> None:
    tiny = Faces(
        np.array([[10, 10, 20, 20]], np.float32),
        np.array([[[12, 13], [17, 13], [14.5, 16], [13, 18], [16, 18]]], np.float32),
        np.array([0.9], np.float32),
    )
    frames = [Frame(i, i / 5, np.full((48, 64, 3), 100, np.uint8)) for i in range(11)]
    detector = FaceWhereSaid(tiny)
    with OnnxEngine(tiny_bundle.engine_path, threads=1) as engine:
        seen = observe(frames, EveryFrame(detector), engine)
    assert detector.batches == [1] * 11
    assert seen.reason == [Reason.TOO_SMALL] * 11
    assert seen.frame_status == [FrameStatus.LOW_QUALITY] * 11
    assert seen.frame_reason == ["too small"] * 11
    assert np.isnan(seen.embedding).all()
    assert not seen.scored.any()


def test_lost_frames_have_a_status(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", frames=100, codec_options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = bytes(len(data) // 10)
    path.write_bytes(data)
    with open_video(path, fps=25) as video, OnnxEngine(tiny_bundle.engine_path, threads=1) as engine:
        seen = observe(video, EveryFrame(FaceWhereSaid(Faces.empty())), engine)
    assert FrameStatus.DECODE_ERROR in seen.frame_status
    assert (np.diff(seen.frame_time_s) >= 0).all()


def test_simes_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    own, shared = rng.normal(size=(20_000, 8)), rng.normal(size=(20_000, 1))
    from scipy.stats import norm

    for mixture in (own, 0.6 * own + 0.8 * shared):
        combined = np.array([simes(row) for row in norm.sf(mixture)])
        assert (combined < 0.05).mean() < 0.056
    assert simes(np.array([0.3])) == 0.3


def test_levels_follow_the_settings() -> None:
    assert [Level.NOTHING.rank, Level.SUSPICIOUS.rank, Level.STRONG.rank] == [0, 1, 2]
    with pytest.raises(ValueError, match="positive"):
        ScanSettings(fps=0)
    with pytest.raises(ValueError, match="strong_p"):
        ScanSettings(strong_p=0.1)
