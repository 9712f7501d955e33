"""Real faces, the real face detector, a real (if tiny) extractor: a side-by-side clip through the whole harness."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from tiny import write_tiny_bundle

from difffake.bundle import Bundle
from difffake.detector import Detector
from difffake.evaluation import EvaluationProtocol, EvaluationSettings, Layout, Level, Recompression, evaluate, to_json
from difffake.settings import ScanSettings
from difffake.video import open_video


def side_by_side(clip: Path, out: Path) -> None:
    """The clip on the left; on the right the clip with its lower two thirds tinted, as a crude manipulation."""
    with open_video(clip) as video, av.open(str(out), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "18", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 1280, 360, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90_000)
        for frame in video:
            tinted = frame.image.copy()
            tinted[120:, :, 0] = np.minimum(tinted[120:, :, 0], 205) + 50
            picture = av.VideoFrame.from_ndarray(np.hstack([frame.image, tinted]), format="rgb24")
            picture.pts, picture.time_base = round(frame.pts_s * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def test_real_faces_from_files_to_figures(clips: dict[str, Path], tiny_bundle: Bundle, tmp_path: Path) -> None:
    root = tmp_path / "pairs"
    root.mkdir()
    side_by_side(clips["man"], root / "man.mp4")
    side_by_side(clips["woman"], root / "woman.mp4")
    settings = EvaluationSettings(
        layout=Layout.SIDE_BY_SIDE,
        root=root,
        cache=tmp_path / "cache",
        fps=4.0,
        max_frames=24,
        recompression=Recompression(crf=23),
        draws=100,
    )
    with Detector.load(tiny_bundle.path, ScanSettings(analysis_side_px=320, threads=1)) as detector:
        report = evaluate(settings, detector)
    saved = to_json(report)
    assert saved["counts"]["videos_scored"] == {"real": 2, "fake": 2}
    assert saved["counts"]["left_out"] == {}
    assert saved["counts"]["people"] == saved["counts"]["anchored_pairs"] == 2
    # Both halves hold the same face: about as many frames are scored on either side.
    frames = saved["counts"]["frames_scored"]
    assert frames["real"] > 24
    assert abs(frames["real"] - frames["fake"]) <= 3
    # Against an anchor of the same stream the tint raises the score of either person.
    score = {v.item.video: v.scores["signed_anchor"] for v in report.videos}
    assert score["man/right"] > score["man/left"]
    assert score["woman/right"] > score["woman/left"]
    signed, logit = (report.performance[name][Level.FRAME] for name in ("signed_anchor", "logit"))
    assert signed.real < logit.real
    assert signed.fake < logit.fake


def test_a_hijack_on_real_faces(clips: dict[str, Path], tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "bundle", identity=True)
    root = tmp_path / "pairs"
    root.mkdir()
    side_by_side(clips["man"], root / "man.mp4")
    side_by_side(clips["woman"], root / "woman.mp4")
    settings = EvaluationSettings(
        layout=Layout.SIDE_BY_SIDE,
        root=root,
        cache=tmp_path / "cache",
        fps=5.0,
        max_frames=30,
        recompression=Recompression(crf=35),
        draws=100,
        protocol=EvaluationProtocol.HIJACK,
        anchor_as_recorded=True,
    )
    with Detector.load(bundle.path, ScanSettings(analysis_side_px=320, threads=1)) as detector:
        report = evaluate(settings, detector)
    assert report.left_out == ()
    assert set(report.performance) == {"signed_anchor", "logit_minus_anchor", "identity_stream", "identity_enrolled"}
    score = {v.item.video: v.scores["identity_stream"] for v in report.videos}
    assert score["man/right"] > score["man/left"]
    assert score["woman/right"] > score["woman/left"]
    frames = report.performance["identity_stream"][Level.FRAME]
    # Two thirds of 6 s and of 2.4 s.
    assert 20 <= frames.real <= 28
    assert abs(frames.real - frames.fake) <= 2
