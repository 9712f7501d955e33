"""What a worker says of the engines that run its networks."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry
from tiny import write_tiny_bundle

from difffake.networks import EngineChoice
from engines.choose import EngineKind
from stream.live import LiveModels, LiveSettings
from stream.metrics.instruments import Metrics

SETTINGS = LiveSettings(threads=1)


def told(models: LiveModels) -> CollectorRegistry:
    metrics = Metrics()
    metrics.engines(models.engines)
    return metrics.registry


def test_an_engine_that_lies_ready_and_does_not_run_is_a_fallback_with_its_reason(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", identity=True).path
    with LiveModels.load(bundle, SETTINGS, EngineChoice(EngineKind.AUTO)) as models:
        registry = told(models)
    networks = {use.network for use in models.engines}
    assert networks == {"extractor", "identity", "detector"}
    for network in networks:
        assert registry.get_sample_value("difffake_engine_fallback", {"network": network}) == 0, "nobody compiled any"

    folder = bundle / "engines" / "extractor" / EngineKind.OPENVINO_INT8
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    with LiveModels.load(bundle, SETTINGS, EngineChoice(EngineKind.AUTO)) as models:
        registry = told(models)
    use = next(use for use in models.engines if use.network == "extractor")
    assert (use.engine, use.asked) == ("onnx", "auto")
    assert use.fallback.startswith("openvino-int8: ")
    assert registry.get_sample_value("difffake_engine_fallback", {"network": "extractor"}) == 1
    labels = {"network": "extractor", "engine": "onnx", "asked": "auto", "reason": use.fallback}
    assert registry.get_sample_value("difffake_engine_info", labels) == 1
    assert registry.get_sample_value("difffake_engine_fallback", {"network": "identity"}) == 0
