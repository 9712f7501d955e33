"""True builds by TensorRT-RTX, which needs no GPU for them: NVIDIA's parser, types, profiles and builder."""

from __future__ import annotations

import _thread
import gc
import signal
import weakref
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from tiny import tiny_extractor, tiny_identity

from difffake.bundle import default_bundle_path
from difffake.errors import EngineError, EngineFileError, EngineHostError
from engines.half import to_half
from engines.profile import BatchProfile, PictureProfile
from engines.tensorrt_api import Gpu, HostInfo, host_info, import_tensorrt, pick_flavour
from engines.tensorrt_build import BuildSettings, BuiltPlan, Progress, build_plan

try:
    import_tensorrt("tensorrt_rtx")
except EngineHostError as missing:  # PyPI has no wheel for every platform
    pytest.skip(str(missing), allow_module_level=True)

NO_GPU = HostInfo({}, None, (), "there is no NVIDIA driver", "install one")
SMALL = BuildSettings(BatchProfile(1, 2, 4))


def build(graph: bytes, settings: BuildSettings = SMALL, progress: Progress | None = None) -> BuiltPlan:
    return build_plan(graph, settings, flavour="tensorrt_rtx", host=NO_GPU, progress=progress)


@pytest.mark.parametrize(
    ("graph", "settings", "names"),
    [
        (tiny_extractor, SMALL, (b"faces", b"embedding", b"logit")),
        (tiny_identity, BuildSettings(BatchProfile(2, 2, 2)), (b"faces", b"embedding")),
        (
            lambda: (default_bundle_path() / "extractor.onnx").read_bytes(),
            BuildSettings(BatchProfile(1, 32, 64), optimization_level=2),
            (b"faces", b"embedding", b"logit"),
        ),
    ],
    ids=["tiny", "tiny identity", "shipped"],
)
def test_builds_a_plan_without_a_gpu(graph: Callable[[], bytes], settings: BuildSettings, names: tuple[bytes]) -> None:
    half = to_half(graph())
    told: list[tuple[str, float]] = []
    built = build(half, settings, lambda phase, share: told.append((phase, share)))
    assert (built.runtime, built.gpu) == ("tensorrt_rtx", None)
    assert built.runtime_version == host_info().runtimes["tensorrt_rtx"]
    assert built.build_s > 0
    assert all(name in built.plan for name in names)
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert 0 <= shares[0] < shares[-1] <= 1


def test_builds_the_face_detector_for_pictures_of_any_size() -> None:
    from difffake.faces.centerface import WEIGHTS

    sizes = PictureProfile((64, 64), (384, 640), (640, 640))
    built = build(to_half(WEIGHTS.read_bytes()), BuildSettings(BatchProfile(1, 2, 4), sizes, optimization_level=0))
    assert all(name in built.plan for name in (b"images", b"heatmap", b"landmarks"))


def test_builds_for_the_cards_that_are_asked_for() -> None:
    half = to_half(tiny_extractor())
    one = build(half, BuildSettings(BatchProfile(1, 2, 4), compute_capabilities=("8.9",)))
    assert one.plan != build(half).plan
    with pytest.raises(EngineError, match=r"nothing for compute capability 5\.2") as caught:
        build(half, BuildSettings(BatchProfile(1, 2, 4), compute_capabilities=("8.9", "5.2")))
    assert "SM89" in caught.value.hint


def edited(change: Callable[[onnx.GraphProto], object]) -> bytes:
    model = onnx.load_model_from_string(to_half(tiny_extractor()))
    change(model.graph)
    return bytes(model.SerializeToString())


def _unknown_operator(graph: onnx.GraphProto) -> None:
    graph.node[2].op_type = "Flattenise"


def _mixed_types(graph: onnx.GraphProto) -> None:
    """Half weights on a float32 input: what a builder with precision flags would have mended."""
    graph.node[2].input[0] = "pixels"


def _lost_weight(graph: onnx.GraphProto) -> None:
    del graph.initializer[0]


@pytest.mark.parametrize("change", [_unknown_operator, _lost_weight, _mixed_types])
def test_a_graph_that_cannot_be_built_is_refused_with_the_parser_s_words(
    change: Callable[[onnx.GraphProto], object],
) -> None:
    with pytest.raises(EngineError, match="tensorrt_rtx") as caught:
        build(edited(change))
    assert "no reason given" not in str(caught.value)
    assert caught.value.hint


def test_a_build_that_failed_keeps_nothing_of_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its builder, ended by a garbage collection in the next one's constructor, would wait for that for ever."""
    trt = import_tensorrt("tensorrt_rtx")
    ends: list[weakref.ref[object]] = []

    def watched(logger: object, new: Callable[[object], object] = trt.Builder) -> object:
        builder = new(logger)
        ends.append(weakref.ref(builder))
        return builder

    monkeypatch.setattr(trt, "Builder", watched)
    gc.disable()
    try:
        for change in (_unknown_operator, _mixed_types):
            with pytest.raises(EngineError) as caught:
                build(edited(change))
            assert caught.value.__traceback__ is not None
        assert [end() for end in ends] == [None, None]
    finally:
        gc.enable()


@pytest.mark.parametrize("graph", [b"", b"no network", to_half(tiny_extractor())[:700]])
def test_what_is_no_onnx_is_refused(graph: bytes) -> None:
    with pytest.raises(EngineFileError, match=r"cannot read the network|has the inputs \[\]"):
        build(graph)


def test_a_network_of_two_inputs_is_refused() -> None:
    def add(graph: onnx.GraphProto) -> None:
        graph.input.append(helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, ["B", 16]))
        graph.output.append(helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, ["B", 16]))
        graph.node.append(helper.make_node("Relu", ["more"], ["out"]))

    with pytest.raises(EngineFileError, match="not one of four dimensions"):
        build(edited(add))


@pytest.mark.parametrize("sizes", [(0, 1, 2), (2, 1, 4), (1, 8, 4), (1, 8, 1 << 20)])
def test_batches_that_do_not_rise_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must rise"):
        BuildSettings(BatchProfile(*sizes))


@pytest.mark.parametrize(
    "settings",
    [
        BuildSettings(BatchProfile(1, 2, 4), timing_cache=Path("timings")),
        BuildSettings(BatchProfile(1, 2, 4), version_compatible=True),
        BuildSettings(BatchProfile(1, 2, 4), hardware_level="ampere_plus"),
    ],
)
def test_what_only_full_tensorrt_has_is_refused(settings: BuildSettings) -> None:
    with pytest.raises(EngineError, match="tensorrt_rtx has no") as caught:
        build(to_half(tiny_extractor()), settings)
    assert "--kind tensorrt" in caught.value.hint


def test_an_interrupt_ends_the_build() -> None:
    calls = []

    def interrupt(phase: str, _: float) -> None:
        if not calls:
            _thread.interrupt_main()
        calls.append(phase)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores interrupts
    try:
        with pytest.raises(KeyboardInterrupt):
            build(to_half((default_bundle_path() / "extractor.onnx").read_bytes()), progress=interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(build(to_half(tiny_extractor())).plan) > 0  # and the next one works


def test_a_display_that_fails_ends_no_build() -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no terminal")

    assert build(to_half(tiny_extractor()), progress=broken).plan


def test_full_tensorrt_is_not_started_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr("engines.tensorrt_build.import_tensorrt", lambda flavour: started.append(flavour))
    for host, told in ((NO_GPU, "no NVIDIA driver"), (HostInfo({}, "13.1", (Gpu("NVIDIA L4", "8.9", 1),)), "no GPU 3")):
        with pytest.raises(EngineHostError, match=told) as caught:
            build_plan(b"", SMALL, flavour="tensorrt", host=host, device=3)
        assert "tensorrt_rtx" in caught.value.hint
    assert started == ["tensorrt", "tensorrt"]


def test_says_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.tensorrt_api.importlib.util.find_spec", lambda _: None)
    with pytest.raises(EngineHostError, match="tensorrt_rtx is not installed") as caught:
        import_tensorrt("tensorrt_rtx")
    assert "pip install tensorrt-rtx-cu13" in caught.value.hint
    with pytest.raises(EngineHostError, match=r"no TensorRT here: tensorrt is not .*; tensorrt_rtx is not"):
        pick_flavour()
    assert host_info().runtimes == {}
