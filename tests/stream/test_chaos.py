"""A short version of `make chaos` on a real Apache Kafka: workers killed, the broker restarted, every frame once."""

from __future__ import annotations

import argparse
from pathlib import Path

import chaos
import pytest
from apache_kafka import KafkaMissing
from tiny import write_tiny_bundle


@pytest.mark.kafka
@pytest.mark.slow
def test_every_frame_appears_once_whoever_is_killed(clips: dict[str, Path], tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny", identity=True).path
    options = argparse.Namespace(
        clips=[clips["woman"], clips["man"], clips["face_noface"]],
        kills=3,
        streams=6,
        loops=1,
        pause=2.0,
        analysis_side=320,
        bundle=bundle,
        timeout=180.0,
        seed=1,
    )
    try:
        result = chaos.run(options, tmp_path)
    except KafkaMissing as missing:
        pytest.skip(str(missing))
    assert result["kills"] == 3
    assert result["frames"] > 50
    assert {name: result[name] for name in ("lost", "doubled", "extra", "deadletters")} == {
        "lost": 0,
        "doubled": 0,
        "extra": 0,
        "deadletters": 0,
    }
    assert result["max_score_diff"] <= 1e-6
