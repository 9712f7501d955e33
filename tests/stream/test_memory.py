"""What a worker remembers does not grow with time: of a stream, and of what its networks were ever asked."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from live_show import SETTINGS, START_NS, STEP_NS, A, B, C
from live_world import STREAM, Shown, picture, source, state_record

from difffake.bundle import Bundle
from difffake.faces.centerface import MAX_RUN_PIXELS
from difffake.faces.finder import FinderState
from difffake.networks import EXTRACTOR, IDENTITY, RUN_FACES_ALONE
from difffake.picture import RgbPicture
from difffake.video import open_video
from stream.alerts import Alerts
from stream.live import LiveModels, LiveSettings, LiveStream
from stream.live.models import LookFrame
from stream.messages import encode

#: A broadcast that goes round and round: two people, a visitor, nobody, a manufactured face; a cut between them.
_ROUND = [
    *[(0, (Shown(A), Shown(B, x=200)))] * 12,
    *[(1, (Shown(C, x=90),))] * 6,
    *[(2, ())] * 4,
    *[(3, (Shown(A, x=100, fake=True),))] * 8,
]
#: Frames after which all is full that fills: the patience of anchors has passed, alerts were opened and closed.
_BEFORE, _AFTER = 8 * len(_ROUND), 24 * len(_ROUND)


def test_what_is_remembered_of_a_stream_does_not_grow(models: LiveModels) -> None:
    shown = [picture(START_NS + i * STEP_NS, faces, place) for i, (place, faces) in enumerate(_ROUND)]
    looks = models.look_through([(frame.picture, frame.pts_ns) for frame in shown], FinderState())
    stream, alerts, known, opened = LiveStream(STREAM, models, SETTINGS), Alerts(), list[tuple[int, int]](), 0
    for number in range(_AFTER):
        frame, look = shown[number % len(shown)], looks[number % len(shown)]
        for score in stream.take([START_NS + number * STEP_NS], [look], [source(frame)]):
            opened += len(alerts.observe(score))
        if number + 1 in (_BEFORE, _AFTER):
            saved = encode(state_record(stream.sections(), stream.last_pts_ns)), alerts.to_state()
            gc.collect()
            known.append((sum(map(len, saved)), len(gc.get_objects())))
    assert opened > 0
    (bytes_before, objects_before), (bytes_after, objects_after) = known
    # Who each track was takes 24 bytes until that table is full; numbers grow by a digit.
    assert bytes_after < bytes_before + 24 * 4 * (_AFTER - _BEFORE) // len(_ROUND) + 512
    assert objects_after < objects_before + 100


def test_networks_run_on_few_faces_however_many_wait(
    bundle: Bundle, clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime keeps what its largest run needed: one crowded moment of all streams must not stay in memory."""
    shapes: list[tuple[int, ...]] = []
    run = ort.InferenceSession.run

    def recorded(session: ort.InferenceSession, names: list[str], feeds: dict[str, Any], *more: Any) -> Any:
        shapes.extend(array.shape for array in feeds.values())
        return run(session, names, feeds, *more)

    monkeypatch.setattr(ort.InferenceSession, "run", recorded)
    with open_video(clips["woman"], fps=1.0) as video:
        image = next(iter(video)).image
    crowd = np.tile(image, (2, 2, 1))
    settings = LiveSettings(threads=1)
    with LiveModels.load(bundle.path, settings) as networks:
        frames = [LookFrame(RgbPicture(crowd), START_NS, FinderState()) for _ in range(settings.detect_batch)]
        looks = networks.look(frames)
    faces = sum(int(look.quality.ok.sum()) for look in looks)
    most = {224: RUN_FACES_ALONE[EXTRACTOR], 150: RUN_FACES_ALONE[IDENTITY]}
    assert faces > max(most.values())
    assert sum(shape[0] for shape in shapes if shape[2] == shape[3] == 224) == faces
    for count, _, height, width in shapes:
        is_face = height == width and height in most
        assert count <= (most[height] if is_face else max(1, MAX_RUN_PIXELS // (height * width)))
