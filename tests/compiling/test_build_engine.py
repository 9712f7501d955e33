"""``build_engine.py`` from end to end: a bundle and a clip in, an engine with its proof out, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny import write_tiny_bundle

from difffake.bundle import Bundle, default_bundle_path
from difffake.compiling.build import BuildOptions, build_tensorrt, choose_flavour
from difffake.compiling.detector import compare_detectors
from difffake.compiling.pictures import Pictures, collect_pictures, labelled_faces
from difffake.compiling.source import open_source
from difffake.errors import BundleError, DataError, EngineHostError, ParityError
from difffake.evaluation.layouts import Layout
from difffake.faces import EYE_DISTANCE
from difffake.faces.centerface import WEIGHTS
from engines.half import to_rounded
from engines.manifest import PLAN, check_source, read_file, read_manifest
from engines.profile import BatchProfile
from engines.tensorrt_api import Gpu, HostInfo, host_info, import_tensorrt
from engines.tensorrt_build import BuildSettings

ROOT = Path(__file__).parents[2]

try:
    import_tensorrt("tensorrt_rtx")
    NO_RTX = ""
except EngineHostError as missing:
    NO_RTX = str(missing)
needs_rtx = pytest.mark.skipif(bool(NO_RTX), reason=NO_RTX)


@pytest.fixture(scope="module")
def few_faces(clips: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of a clip with a face: looking through all of it takes most of a test's time."""
    import av

    out = tmp_path_factory.mktemp("faces") / "short.mp4"
    with av.open(str(clips["woman"])) as source, av.open(str(out), "w") as target:
        video = source.streams.video[0]
        copy = target.add_stream_from_template(video)
        for packet in source.demux(video):
            if packet.dts is not None and float(packet.dts * packet.time_base) < 4:
                packet.stream = copy
                target.mux(packet)
    return out


def build_engine(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "build_engine.py"), *map(str, arguments), "--threads", "1"]
    environment = os.environ | {"COLUMNS": "80", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT, timeout=500)


@needs_rtx
def test_the_shipped_extractor_becomes_an_engine_with_its_proof(clips: dict[str, Path], tmp_path: Path) -> None:
    run = build_engine("--kind", "tensorrt_rtx", "--faces", clips["woman"], "--max-faces", "64", "--out", tmp_path)
    assert run.returncode == 0, run.stderr
    folder = tmp_path / "extractor" / "tensorrt_rtx-fp16"
    manifest = read_manifest(folder)
    bundle = Bundle.load()
    check_source(manifest, bundle.manifest.files["extractor.onnx"].sha256)
    assert len(read_file(manifest, folder, PLAN)) == manifest.files[PLAN].size_bytes > 1 << 20
    assert (manifest.side_px, manifest.dim, manifest.has_logit) == (224, bundle.manifest.dim, True)
    assert manifest.accepted
    rounded = manifest.parity[0]
    assert rounded.pictures == 64
    assert rounded.figures["cosine_min"] is not None
    assert 0.999 < rounded.figures["cosine_min"] < 1
    assert "logit.spearman" in rounded.figures
    assert sorted(p.name for p in folder.iterdir()) == ["engine.plan", "manifest.json"]
    assert [p.name for p in (tmp_path / "extractor").iterdir()] == [folder.name]
    for shown in ("cosine_min", "ONNX fp32", "engine's files", "passed", "tensorrt_rtx", "signed_anchor"):
        assert shown in run.stdout
    assert "…" not in run.stdout  # no name and no figure is cut off
    if manifest.parity[-1].not_run is not None:
        assert "not run, no device" in " ".join(run.stdout.split())


def overflowing(folder: Path) -> Path:
    """A bundle whose extractor goes beyond half precision on the way, on any face."""
    write_tiny_bundle(folder)
    file, manifest = folder / "extractor.onnx", folder / "manifest.json"
    model = onnx.load(str(file))
    weights = numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weights * np.float32(3e4), "weights"))
    file.write_bytes(model.SerializeToString())
    fields = json.loads(manifest.read_text())
    fields["files"][file.name] = {
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "size_bytes": file.stat().st_size,
    }
    manifest.write_text(json.dumps(fields))
    return folder


@needs_rtx
def test_an_engine_that_does_not_keep_the_scores_is_not_written(pictures: Pictures, tmp_path: Path) -> None:
    source = open_source("extractor", bundle=overflowing(tmp_path / "bundle"))
    options = BuildOptions(BuildSettings(BatchProfile(1, 2, 4)), tmp_path / "engines", threads=1)
    with pytest.raises(ParityError, match="not finite"):
        build_tensorrt(source, "tensorrt_rtx", options, pictures, host_info())
    assert not options.out.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--bundle", "nowhere"], BundleError.exit_code, "no model bundle"),
        (["--min-batch", "8", "--max-batch", "4"], 2, "must rise"),
        (["--network", "detector", "--picture-px", "100", "640"], 2, "multiples of 32"),
        (["--network", "identity", "--checkpoint", "x.pt"], DataError.exit_code, "holds an extractor"),
        (["--faces", "nowhere.mp4"], DataError.exit_code, "no such file"),
        (["--max-faces", "10"], 2, "equal to 64"),
    ],
)
@needs_rtx
def test_what_cannot_be_built_is_said_in_one_line(arguments: list[str], code: int, told: str, tmp_path: Path) -> None:
    run = build_engine("--kind", "tensorrt_rtx", *arguments, "--out", tmp_path / "engines")
    assert run.returncode == code, run.stderr
    assert told in " ".join(run.stderr.split())
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "engines").exists()


def test_the_best_flavour_that_can_build_here_is_taken() -> None:
    card = (Gpu("NVIDIA L4", "8.9", 24 << 30),)
    both = {"tensorrt": "11.4.0.106", "tensorrt_rtx": "1.7.1.116"}
    assert choose_flavour(HostInfo(both, "13.1", card)) == "tensorrt"
    assert choose_flavour(HostInfo(both, None, (), "no driver")) == "tensorrt_rtx"
    assert choose_flavour(HostInfo(both, "13.1", card), "tensorrt_rtx-fp16") == "tensorrt_rtx"
    assert choose_flavour(HostInfo({}, None, (), "no driver"), "tensorrt") == "tensorrt"


def test_pictures_are_faces_of_clips_in_order(few_faces: Path, clips: dict[str, Path]) -> None:
    pictures = collect_pictures([few_faces, clips["no_face"]], eye_distance=EYE_DISTANCE, max_faces=12, threads=1)
    faces = pictures.faces
    assert faces.faces.shape[1:] == (3, 224, 224)
    assert pictures.identity.faces.shape[1:] == (3, 150, 150)
    assert len(faces) == len(pictures.identity) <= 12
    assert set(faces.clip) == {0}
    assert (np.diff(faces.time_s) > 0).all()
    assert not faces.family.any()
    assert pictures.frames[0].shape == (360, 640, 3)
    with pytest.raises(DataError, match=r"only 5 faces .* and 6 are needed"):
        collect_pictures([few_faces], eye_distance=EYE_DISTANCE, min_faces=6, max_faces=5, threads=1)


def test_labelled_video_is_a_clip_of_both_kinds(clips: dict[str, Path], tmp_path: Path) -> None:
    for kind, name in (("real", "man"), ("fake", "woman")):
        (tmp_path / kind).mkdir()
        shutil.copy(clips[name], tmp_path / kind / "one.mp4")
    faces, identity = labelled_faces(Layout.FOLDERS, tmp_path, eye_distance=EYE_DISTANCE, max_frames=4, threads=1)
    assert faces.faces.shape == (8, 3, 224, 224)
    assert identity.faces.shape == (8, 3, 150, 150)
    assert faces.family.tolist() == identity.family.tolist() == [0] * 4 + [1] * 4
    assert faces.time_s == pytest.approx([0, 0.25, 0.5, 0.75] * 2, abs=0.05)
    with pytest.raises(DataError, match="not a folder"):
        labelled_faces(Layout.FOLDERS, tmp_path / "none", eye_distance=EYE_DISTANCE)


def test_files_without_a_face_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"no face that can be scored in 1 files: .*") as caught:
        collect_pictures([tmp_path], eye_distance=EYE_DISTANCE)
    assert "empty.mp4" in str(caught.value)
    with pytest.raises(DataError, match="no clip or picture"):
        collect_pictures([Path(__file__).parent], eye_distance=EYE_DISTANCE)


def test_a_bundle_without_an_identity_network_has_none_to_compile(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path)
    with pytest.raises(BundleError, match="no identity network"):
        open_source("identity", bundle=tmp_path)
    assert open_source("identity", bundle=default_bundle_path()).shape.dim == 128


@pytest.fixture(scope="module")
def pictures(few_faces: Path) -> Pictures:
    return collect_pictures([few_faces], eye_distance=EYE_DISTANCE, max_faces=3, threads=1)


def test_the_rounded_detector_finds_the_same_faces(pictures: Pictures) -> None:
    exact = WEIGHTS.read_bytes()
    found = compare_detectors(exact, to_rounded(exact), pictures.frames, reference="a", candidate="b")
    assert found.accepted
    assert found.figures["faces"] == len(pictures.frames)
    assert found.figures["landmark_error_median"] is not None
    assert 0 < found.figures["landmark_error_median"] < 0.01


def test_a_detector_that_sees_other_faces_is_refused(pictures: Pictures) -> None:
    exact = WEIGHTS.read_bytes()
    model = onnx.load_model_from_string(exact)
    producers = {node.output[0]: node for node in model.graph.node}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    bias = weights[producers["landmarks"].input[2]]
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(0.02), bias.name))
    with pytest.raises(ParityError, match="landmarks move"):
        compare_detectors(exact, model.SerializeToString(), pictures.frames, reference="a", candidate="b")
    blind = weights[producers[producers["heatmap"].input[0]].input[2]]
    blind.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(blind) - np.float32(20), blind.name))
    with pytest.raises(ParityError, match="no common face"):
        compare_detectors(exact, model.SerializeToString(), pictures.frames, reference="a", candidate="b")
