"""Both brokers, for what they do alike; files about one of them have fixtures of their own by these names."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from broker_harness import Harness, KafkaHarness, MemoryHarness

from stream.broker.contract import Broker


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def harness(request: pytest.FixtureRequest) -> Iterator[Harness]:
    """One of the two."""
    if request.param == "memory":
        yield MemoryHarness()
        return
    real = KafkaHarness(request.getfixturevalue("kafka_bootstrap"))
    yield real
    real.close()


@pytest.fixture
def broker(harness: Harness) -> Broker:
    return harness.broker()
