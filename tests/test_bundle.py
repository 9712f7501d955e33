from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import onnx
import onnx.external_data_helper
import pytest
from tiny import DIM, SCORES, write_tiny_bundle

from difffake.bundle import Bundle, Projection, ScoreSpec, check_bundle_target, save_bundle
from difffake.errors import BundleError, OutputError
from difffake.head import LinearHead
from difffake.networks import open_networks
from difffake.scoring import Scorer


@pytest.fixture
def folder(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))


def edit_manifest(folder: Path, **changes: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_reads_back_what_was_written(tiny_bundle: Bundle) -> None:
    again = Bundle.load(tiny_bundle.path)
    assert again.manifest == tiny_bundle.manifest
    x = np.random.default_rng(1).normal(size=(5, DIM))
    for name, mixture in tiny_bundle.densities.items():
        np.testing.assert_array_equal(again.densities[name].log_density(x), mixture.log_density(x))
    np.testing.assert_array_equal(
        again.calibrations["logit"].p_value([0.0, 9.0]), tiny_bundle.calibrations["logit"].p_value([0.0, 9.0])
    )


def test_stills_may_be_read_by_another_score(tiny_bundle: Bundle, folder: Path) -> None:
    for manifest in (tiny_bundle.manifest, Bundle.load(folder).manifest):
        assert manifest.readings(is_still=True) == manifest.readings(is_still=False) == manifest.evidence
    edit_manifest(folder, evidence=tiny_bundle.manifest.evidence | {"artifact_still": "density"})
    manifest = Bundle.load(folder).manifest
    assert manifest.readings(is_still=False) == tiny_bundle.manifest.evidence
    assert manifest.readings(is_still=True) == tiny_bundle.manifest.evidence | {"artifact": "density"}


def test_model_id_names_the_content_and_not_the_place(tiny_bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    assert Bundle.load(folder).model_id == tiny_bundle.model_id
    assert write_tiny_bundle(tmp_path / "other", seed=1).model_id != tiny_bundle.model_id


@pytest.mark.parametrize("name", ["extractor.onnx", "density.safetensors", "calibration.safetensors"])
@pytest.mark.parametrize("where", [0.0, 0.5, 1.0])
def test_one_flipped_bit_is_refused(folder: Path, name: str, where: float) -> None:
    data = bytearray((folder / name).read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"{name} is damaged") as caught:
        Bundle.load(folder)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["extractor.onnx", "density.safetensors", "calibration.safetensors"])
def test_a_missing_or_shortened_file_is_named(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(BundleError, match=f"{name} has"):
        Bundle.load(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        Bundle.load(folder)


@pytest.mark.parametrize("kind", get_args(get_type_hints(ScoreSpec)["kind"]))
def test_what_a_head_reads_is_taught(kind: Any) -> None:
    assert ScoreSpec(evidence="anchor", kind=kind).is_taught == kind.startswith("supervised")


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no model bundle"):
        Bundle.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 6}, "format 6"),
        ({"surprise": 1}, "damaged"),
        ({"dim": "many"}, "damaged"),
        ({"dim": DIM + 1}, "dimensions"),
        ({"files": {"../../etc/passwd": {"sha256": "", "size_bytes": 1}}}, "lists the files"),
        ({"evidence": {"artifact": "nothing"}}, "evidence artifact"),
        ({"evidence": {"artifact": "logit", "artifact_still": "nothing"}}, "evidence artifact_still"),
        ({"evidence": {"artifact": "logit", "artifact_still": "signed_anchor"}}, "a still picture cannot be read by"),
        (
            {"scores": SCORES | {"density": {"evidence": "artifact", "kind": "density", "density": "x"}}},
            "needs",
        ),
        ({"eye_distance": 0.0}, "eye_distance is 0.0"),
        ({"eye_distance": 5.0}, "eye_distance is 5.0"),
        ({"name": "x\n../y"}, "its name"),
        ({"name": ""}, "its name"),
        ({"evidence": {}}, "nothing in it is read"),
        ({"name": "x" * 10_000}, "its name"),
        ({"evidence": {"artifact": "signed_anchor"}}, "signed_anchor is no score of the evidence artifact"),
        ({"evidence": {"mood": "logit"}}, "logit is no score of the evidence mood"),
        ({"scores": SCORES | {"logit": {"evidence": "artifact", "kind": "distance"}}}, "logit needs an anchor"),
        (
            {"scores": SCORES | {"logit": {"evidence": "artifact", "kind": "logit", "minus_anchor_mean": True}}},
            "logit needs an anchor",
        ),
    ],
)
def test_an_inconsistent_manifest_is_refused(folder: Path, changes: dict[str, object], message: str) -> None:
    edit_manifest(folder, **changes)
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def test_a_network_whose_weights_lie_elsewhere_is_refused(folder: Path) -> None:
    model = onnx.load(folder / "extractor.onnx")
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, folder / "extractor.onnx")
    data = (folder / "extractor.onnx").read_bytes()
    files = json.loads((folder / "manifest.json").read_text())["files"]
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
    edit_manifest(folder, files=files | {"extractor.onnx": entry})
    with pytest.raises(BundleError, match=r"extractor\.onnx keeps weights in another file"):
        Bundle.load(folder)


@pytest.mark.parametrize("length", [b"\x08", b"\x88\x00", b"\x88\x80\x80\x00"])
@pytest.mark.parametrize("is_value_first", [False, True])
def test_however_it_is_written_that_weights_lie_elsewhere_it_is_seen(
    folder: Path, length: bytes, is_value_first: bool
) -> None:
    key, value = b"\n" + length + b"location", b"\x12\x0bweights.bin"
    entry = value + key if is_value_first else key + value
    tensor = b"\x08\x01\x10\x01\x42\x01w" + b"\x6a" + bytes([len(entry)]) + entry + b"\x70\x01"  # external_data, 13
    graph = b"\x2a" + bytes([len(tensor)]) + tensor  # initializer, 5
    model = (folder / "extractor.onnx").read_bytes() + b"\x3a" + bytes([len(graph)]) + graph  # graph, 7: joined
    read = onnx.load_from_string(model).graph.initializer[-1]
    assert [(one.key, one.value) for one in read.external_data] == [("location", "weights.bin")]
    (folder / "extractor.onnx").write_bytes(model)
    files = json.loads((folder / "manifest.json").read_text())["files"]
    told = {"sha256": hashlib.sha256(model).hexdigest(), "size_bytes": len(model)}
    edit_manifest(folder, files=files | {"extractor.onnx": told})
    with pytest.raises(BundleError, match=r"extractor\.onnx keeps weights in another file"):
        Bundle.load(folder)


def test_a_network_that_takes_the_place_of_the_one_that_was_checked_is_refused(
    tiny_bundle: Bundle, folder: Path
) -> None:
    bundle = Bundle.load(folder)
    open_networks(bundle, threads=1).close()
    again(tiny_bundle, folder)  # the same bytes: what counts is that nobody checked them
    with pytest.raises(BundleError, match=r"extractor\.onnx was replaced while") as caught:
        open_networks(bundle, threads=1)
    assert caught.value.hint
    open_networks(Bundle.load(folder), threads=1).close()


def test_a_file_that_cannot_be_read_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **more: Any) -> Any:
        if path.name == "density.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **more)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BundleError, match=r"density\.safetensors cannot be read: Permission denied"):
        Bundle.load(folder)


_DEEP = b'{"format":5,"training":' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"{" * 100_000, b" " * (2 << 20), _DEEP])
def test_a_manifest_of_rubbish_is_refused(folder: Path, content: bytes) -> None:
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError):
        Bundle.load(folder)


def again(bundle: Bundle, out: Path, **more: Any) -> Bundle:
    fields = {
        name: getattr(bundle.manifest, name)
        for name in bundle.manifest.__struct_fields__
        if name not in ("format", "files")
    }
    return save_bundle(
        out,
        extractor=bundle.engine_path.read_bytes(),
        densities=bundle.densities,
        calibrations=bundle.calibrations,
        **more,
        **fields,
    )


def test_a_projection_travels_with_the_bundle(tiny_bundle: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    projection = Projection(rng.normal(size=DIM).astype("f4"), rng.normal(size=(DIM, DIM)).astype("f4"))
    bundle = again(tiny_bundle, tmp_path / "projected", projection=projection)
    assert bundle.projection is not None
    x = rng.normal(size=(3, DIM)).astype("f4")
    np.testing.assert_array_equal(bundle.projection(x), projection(x))


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_a_projection_that_is_not_finite_is_refused(tiny_bundle: Bundle, tmp_path: Path, number: float) -> None:
    dtype = "f8" if np.isfinite(number) else "f4"
    projection = Projection(np.zeros(DIM, dtype), np.full((DIM, DIM), number, dtype))
    with pytest.raises(BundleError, match="no finite number in float32"):
        again(tiny_bundle, tmp_path / "projected", projection=projection)


def test_a_bundle_that_is_there_is_replaced_only_when_asked(folder: Path, tmp_path: Path) -> None:
    for free in (tmp_path / "new" / "one", tmp_path / "empty"):
        check_bundle_target(free)
        assert not free.exists()
    with pytest.raises(OutputError, match="a bundle is there already") as told:
        check_bundle_target(folder)
    assert "--overwrite" in told.value.hint
    check_bundle_target(folder, overwrite=True)
    (folder / "notes.txt").write_text("mine")
    check_bundle_target(folder, overwrite=True)
    (folder / "manifest.json").unlink()
    with pytest.raises(OutputError, match="no bundle, but other files"):
        check_bundle_target(folder, overwrite=True)
    with pytest.raises(OutputError, match="not a directory"):
        check_bundle_target(folder / "notes.txt" / "bundle", overwrite=True)


def test_a_bundle_is_replaced_whole(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Who has the old one open, as a worker that runs, keeps it; nothing of it is left behind."""
    out = tmp_path / "taught"
    with_head(tiny_bundle, out, LinearHead(np.ones(DIM), 0.0, 1.0))
    with (out / "extractor.onnx").open("rb") as opened:
        again(tiny_bundle, out)
        assert opened.read() == tiny_bundle.engine_path.read_bytes()
        assert not os.path.samestat(os.fstat(opened.fileno()), (out / "extractor.onnx").stat())
    assert sorted(path.name for path in out.iterdir()) == sorted(["manifest.json", *tiny_bundle.manifest.files])


def with_head(bundle: Bundle, out: Path, taught_head: LinearHead, **spec: object) -> Bundle:
    fields = {
        name: getattr(bundle.manifest, name)
        for name in bundle.manifest.__struct_fields__
        if name not in ("format", "files", "scores", "evidence")
    }
    taught = ScoreSpec(**({"evidence": "artifact", "kind": "supervised", "head": "artifact"} | spec))
    return save_bundle(
        out,
        extractor=bundle.engine_path.read_bytes(),
        densities=bundle.densities,
        calibrations=bundle.calibrations | {"supervised": bundle.calibrations["logit"]},
        heads={"artifact": taught_head},
        scores=bundle.manifest.scores | {"supervised": taught},
        evidence=bundle.manifest.evidence | {"artifact": "supervised"},
        **fields,
    )


def test_a_head_travels_with_the_bundle_and_reads_faces(tiny_bundle: Bundle, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    head = LinearHead(rng.normal(size=DIM), -0.5, 2.0)
    made = with_head(tiny_bundle, tmp_path / "taught", head)
    again = Bundle.load(tmp_path / "taught")
    assert made.model_id == again.model_id != tiny_bundle.model_id
    x = rng.normal(size=(5, DIM)).astype("f4")
    logit = rng.normal(size=5).astype("f4")
    scores = Scorer(again).score(x, logit, np.arange(5.0))
    np.testing.assert_array_equal(scores["supervised"], head(x, logit))
    np.testing.assert_allclose(scores["supervised"], x.astype(float) @ head.weights - 0.5 + 2.0 * logit)


def test_bundles_from_before_there_were_heads_load(tiny_bundle: Bundle, folder: Path) -> None:
    scores = json.loads((folder / "manifest.json").read_text())["scores"]
    for spec in scores.values():
        del spec["head"]
    edit_manifest(folder, format=2, scores=scores)
    old = Bundle.load(folder)
    assert old.heads == {}
    assert old.model_id == tiny_bundle.model_id


@pytest.mark.parametrize(
    ("weights", "spec"),
    [
        (np.ones(DIM + 1), {}),
        (np.ones(DIM), {"head": "another"}),
        (np.ones(DIM), {"head": None}),
        (np.ones(DIM), {"anchor": "self"}),
        (np.ones(DIM), {"embedding": "identity"}),
    ],
)
def test_a_head_that_cannot_give_its_score_is_refused(
    tiny_bundle: Bundle, tmp_path: Path, weights: np.ndarray, spec: dict[str, object]
) -> None:
    with pytest.raises(BundleError):
        with_head(tiny_bundle, tmp_path / "taught", LinearHead(weights, 0.0), **spec)


def test_a_damaged_head_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with_head(tiny_bundle, tmp_path / "taught", LinearHead(np.ones(DIM), 0.0))
    file = tmp_path / "taught" / "head.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BundleError, match=r"head\.safetensors is damaged"):
        Bundle.load(tmp_path / "taught")
