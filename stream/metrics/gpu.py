"""What is known of the GPU that a worker runs on."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from difffake.errors import EngineError
from engines.device_memory import Device
from stream.metrics import catalogue as names
from stream.metrics.store import family


class GpuMetrics(Collector):
    """Asks the GPU at every scrape; a GPU that does not answer leaves its series out.

    Args:
        device: for this alone; whoever opened it closes it.
        number: the GPU's, as CUDA counts them.
    """

    def __init__(self, device: Device, number: int = 0) -> None:
        self._device, self._number = device, str(number)
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Family]:
        """For the client library."""
        try:
            with self._lock, self._device.active():
                memory = self._device.memory()
        except EngineError:
            return
        yield family(names.GPU, {(self._number, self._device.name): 1.0})
        yield family(names.GPU_USED, {(self._number,): float(memory.total - memory.free)})
        yield family(names.GPU_TOTAL, {(self._number,): float(memory.total)})
