"""All that is known of one stream as the sections of its state record, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from difffake.errors import AnchorError, DataError
from difffake.faces.finder import FinderState
from difffake.networks import ModelName
from difffake.people import People, Tracker
from difffake.people.ledger import Arrays
from stream.live.anchors import Anchors
from stream.live.models import LiveModels
from stream.live.settings import LiveSettings
from stream.live.windows import Windows
from stream.messages import MessageError, StateRecord, pack_arrays, unpack_arrays
from stream.messages.codec import UNREADABLE

VERSION = 2
_HINT = "restore from an earlier state, or delete this stream's state: it then warms up again"


class OtherModelError(MessageError):
    """State that was made with other networks: its embeddings cannot be compared with new ones."""


@dataclass(slots=True)
class Memory:
    """What is remembered of a stream.

    Args:
        people, tracker, finder, anchors, windows: see there.
        shot: how many cuts there were.
        last_pts_ns: of the last frame; None before the first.
    """

    people: People
    tracker: Tracker
    finder: FinderState
    anchors: Anchors
    windows: Windows
    shot: int = 0
    last_pts_ns: int | None = None

    @classmethod
    def new(cls, settings: LiveSettings) -> Memory:
        """Of a stream that was never seen."""
        return cls(
            People(settings.people),
            Tracker(max_tracks=settings.max_tracks),
            FinderState(),
            Anchors(settings.anchor, settings.max_anchors),
            Windows(settings.window_s),
        )

    def sections(self, models: LiveModels) -> dict[str, Any]:
        """The fields ``people``, ``tracker``, ``finder``, ``evidence``, ``anchors``, ``arrays`` of a `StateRecord`."""
        clock = [] if self.last_pts_ns is None else [self.last_pts_ns]
        evidence: Arrays = {
            "version": np.array([VERSION], np.int64),
            "model": _text(models.model_id),
            "networks": _text(models.networks),
            "shot": np.array([self.shot], np.int64),
            "last_pts_ns": np.array(clock, np.int64),
        }
        anchors, arrays = self.anchors.to_parts()
        return {
            "people": pack_arrays(self.people.views()),
            "tracker": pack_arrays(self.tracker.views()),
            "finder": msgspec.msgpack.encode(self.finder),
            "evidence": pack_arrays(evidence | self.windows.to_arrays() | self.anchors.to_arrays()),
            "anchors": anchors,
            "arrays": arrays,
        }

    @classmethod
    def restored(cls, models: LiveModels, settings: LiveSettings, record: StateRecord) -> Memory:
        """The memory of `sections`; that of a stream never seen where all of them are empty.

        Raises:
            OtherModelError: made with other networks.
            MessageError: a section is damaged, or contradicts another.
        """
        if not any((record.people, record.tracker, record.finder, record.evidence, record.anchors, record.arrays)):
            return cls.new(settings)
        evidence = unpack_arrays(record.evidence)
        version, shot = _number(evidence, "version"), _number(evidence, "shot")
        if version != VERSION:
            raise MessageError(f"the state of a stream of version {version}, not {VERSION}", hint=_HINT)
        if _words(evidence, "networks") != models.networks:
            raise OtherModelError(
                f"the state of {record.stream[:80]} was made with other networks (model {_words(evidence, 'model')})",
                hint="begin this stream anew and apply its enrolments again, or go back to that model",
            )
        try:
            memory = cls(
                People.from_arrays(unpack_arrays(record.people), settings.people),
                Tracker.from_arrays(unpack_arrays(record.tracker), max_tracks=settings.max_tracks),
                _finder(record.finder),
                Anchors.restored(record.anchors, record.arrays, evidence, settings.anchor, settings.max_anchors),
                Windows.from_arrays(evidence, settings.window_s),
                shot,
            )
        except (DataError, AnchorError, *UNREADABLE) as error:
            raise MessageError(f"the state of {record.stream[:80]}: {error}", hint=_HINT) from error
        if ModelName.parse(_words(evidence, "model")).model != ModelName.parse(models.model_id).model:
            # Scores of other densities have no place in one window with new ones; those of another engine have.
            memory.windows = Windows(settings.window_s)
        last = evidence.get("last_pts_ns")
        if last is None or last.dtype != np.int64 or last.shape not in ((0,), (1,)):
            raise MessageError("the state of a stream that lacks the time of its last frame", hint=_HINT)
        memory.last_pts_ns = int(last[0]) if len(last) else None
        memory._check(models)
        return memory

    def _check(self, models: LiveModels) -> None:
        now_s = -np.inf if self.last_pts_ns is None else self.last_pts_ns / 1e9
        dim = models.bundle.manifest.dim
        keepers_fit = all(self.anchors[person].fits(dim, models.identity_dim) for person in self.anchors)
        if not self.people.fits(models.identity_dim, now_s) or not keepers_fit or self.shot < 0:
            raise MessageError("the state of a stream whose sections contradict each other", hint=_HINT)


def _finder(section: bytes) -> FinderState:
    return msgspec.msgpack.decode(section, type=FinderState)


def _text(text: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(text.encode(), np.uint8).copy()


def _words(arrays: Arrays, name: str) -> str:
    array = arrays.get(name)
    if array is None or array.dtype != np.uint8 or array.ndim != 1 or len(array) > 1024:
        raise MessageError(f"the state of a stream that lacks its {name}", hint=_HINT)
    return array.tobytes().decode(errors="replace")


def _number(arrays: Arrays, name: str) -> int:
    array = arrays.get(name)
    if array is None or array.dtype != np.int64 or array.shape != (1,):
        raise MessageError(f"the state of a stream that lacks its {name}", hint=_HINT)
    return int(np.asarray(array, np.int64)[0])
