"""A short version of `make fuzz`: broken records through a whole worker, among streams that must not notice."""

from __future__ import annotations

from pathlib import Path

import fuzz_worker
import pytest

from difffake.bundle import Bundle
from stream.live import LiveModels


@pytest.mark.slow
def test_broken_records_crash_nothing_lose_nothing_and_change_nothing(
    clips: dict[str, Path], tiny_bundle: Bundle
) -> None:
    def records(*, only_good: bool = False) -> list[fuzz_worker.Sent]:
        return [one for one in fuzz_worker.records(150, 3, clips["man"]) if one.good or not only_good]

    with LiveModels.load(tiny_bundle.path, fuzz_worker.LIVE) as models:
        fuzzed = fuzz_worker.work_off(models, iter(records()), shift=100)
        calm = fuzz_worker.work_off(models, iter(records(only_good=True)), shift=100)
    assert fuzzed.records == fuzzed.accounted == 200
    assert (fuzzed.crashes, fuzzed.doubled, fuzzed.unexpected) == (0, 0, [])
    assert {"CorruptInputError", "StreamIdError", "UnknownTypeError"} <= fuzzed.letters.keys()
    assert fuzzed.good_scores
    assert fuzz_worker.differing(fuzzed, calm) == 0
