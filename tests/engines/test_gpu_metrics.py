"""What metrics say of a GPU, over the CUDA double."""

from __future__ import annotations

import pytest
from cuda_double import Cuda
from cuda_modules import Runtime
from prometheus_client import CollectorRegistry

from engines.device_cuda import CudaDevice
from stream.metrics.catalogue import CATALOGUE
from stream.metrics.gpu import GpuMetrics


@pytest.fixture
def cuda() -> Cuda:
    return Cuda(memory_bytes=1 << 20)


def test_name_and_memory_of_the_card(cuda: Cuda) -> None:
    registry = CollectorRegistry()
    device = CudaDevice(runtime=Runtime(cuda))
    registry.register(GpuMetrics(device))
    with device.active():
        device.allocate(1 << 18)
    assert registry.get_sample_value("difffake_gpu_info", {"device": "0", "name": device.name}) == 1
    assert registry.get_sample_value("difffake_gpu_memory_bytes", {"device": "0"}) == 1 << 20
    assert registry.get_sample_value("difffake_gpu_memory_used_bytes", {"device": "0"}) == 1 << 18
    names = {sample.name for family in registry.collect() for sample in family.samples}
    assert names == {name for name in CATALOGUE if "_gpu_" in name}


def test_a_gpu_that_does_not_answer_leaves_its_figures_out(cuda: Cuda) -> None:
    registry, device = CollectorRegistry(), CudaDevice(runtime=Runtime(cuda))
    registry.register(GpuMetrics(device))
    assert list(registry.collect())
    device.close()
    assert list(registry.collect()) == []
