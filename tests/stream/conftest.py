"""Networks that read a made-up broadcast back; a module with its own fixtures of these names keeps to them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from live_show import SETTINGS
from live_world import (
    enrolment,
    scripted_models,
)
from tiny import write_tiny_bundle

from difffake.bundle import Bundle
from stream.live import LiveModels
from stream.messages import (
    EnrolmentRecord,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("live") / "tiny", identity=True)


@pytest.fixture(scope="module")
def models(bundle: Bundle) -> LiveModels:
    return scripted_models(bundle, SETTINGS)


@pytest.fixture(scope="module")
def enrol(bundle: Bundle) -> Callable[..., EnrolmentRecord]:
    """Make the enrolment of a name with somebody's face."""
    return partial(enrolment, bundle)
