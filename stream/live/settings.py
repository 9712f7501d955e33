"""What the analysis of live streams may be told; frozen once read."""

from __future__ import annotations

import math

import msgspec

from difffake.anchors import AnchorPolicy
from difffake.anchors.policy import MAX_KEPT
from difffake.people import PeopleSettings
from difffake.settings import check_networks
from stream.messages.scores import MAX_FACES

#: Bytes of a person in a registry of `PeopleSettings`, apart from its identity embeddings and who was seen with whom.
_PERSON_BYTES = 64
#: Settings that need not be positive numbers.
_FREE = ("anchor", "guests", "portraits", "still_s", "threads", "whole_s")
#: Members of an enrolled anchor; `difffake enroll` takes 8.
MAX_ENROLLED_FRAMES = 16


class LiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the analysis, the same for all streams of a worker.

    Args:
        window_s: length of the running window, s of stream time; evidence is the mean over it.
        min_window_frames: scored frames from which on the window says something.
        suspicious_p, strong_p: p-values below which evidence is called suspicious, and strong.
        anchor: how a person's anchor is found and kept.
        guests: faces of people who are not enrolled are expected, and say nothing about identity.
        max_faces: faces looked at per frame, the most confident first.
        max_people: people remembered; the longest unseen without a name are forgotten beyond.
        max_anchors: anchors kept of people who are not enrolled; the longest unseen is given up beyond.
        max_enrolled: people who can be enrolled.
        analysis_side_px: long side at which whole pictures are looked through for faces.
        whole_s: time from one of them to the next, s of stream time; known faces are followed by close-ups in between,
            and a new face is found within about this time. 0: every frame.
        still_s: longest time between two of them where faces are known and nothing moves outside of them; less than
            ``whole_s`` counts as that.
        detect_batch: frames in one run of the networks.
        threads: threads of each network; 0 takes every core.
        portraits: small pictures of the faces are kept until the frame's alerts are known, which may carry one.
    """

    window_s: float = 5.0
    min_window_frames: int = 5
    suspicious_p: float = 0.05
    strong_p: float = 0.01
    anchor: AnchorPolicy = AnchorPolicy()
    guests: bool = False
    max_faces: int = 8
    max_people: int = 256
    max_anchors: int = 24
    max_enrolled: int = 32
    analysis_side_px: int = 480
    whole_s: float = 1.0
    still_s: float = 3.0
    detect_batch: int = 8
    threads: int = 0
    portraits: bool = True

    def __post_init__(self) -> None:
        numbers = {n: getattr(self, n) for n in self.__struct_fields__ if n not in _FREE}
        if wrong := {n: v for n, v in numbers.items() if not (math.isfinite(v) and v > 0)}:
            raise ValueError(f"settings must be positive: {wrong}")
        check_networks(self.threads, self.analysis_side_px)
        for name in ("whole_s", "still_s"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must be 0 or more seconds, not {getattr(self, name)}")
        if not self.strong_p <= self.suspicious_p < 1:
            raise ValueError(f"need strong_p <= suspicious_p < 1, not {self.strong_p} and {self.suspicious_p}")
        if self.max_faces > MAX_FACES or self.window_s > 3600:
            raise ValueError(f"at most {MAX_FACES} faces a frame and windows of an hour")
        if self.max_anchors + self.max_enrolled > self.max_people:
            raise ValueError("need max_anchors + max_enrolled <= max_people")

    def state_bytes(self, dim: int, identity_dim: int) -> int:
        """About how large the state of a stream can grow with embeddings of these sizes; 20 people are far below it."""
        face = 4 * (dim + identity_dim) + 64
        waiting = self.max_anchors * MAX_KEPT * self.anchor.min_frames * face
        enrolled = self.max_enrolled * (MAX_ENROLLED_FRAMES * face + 8 * (dim + identity_dim))
        exemplars = PeopleSettings().exemplars
        people = self.max_people * (4 * identity_dim * (exemplars + 1) + self.max_people + _PERSON_BYTES)
        return waiting + enrolled + people

    @property
    def people(self) -> PeopleSettings:
        """Bounds of who is who: tracks are looked up only while they last."""
        return PeopleSettings(max_people=self.max_people, max_tracks=512, max_active=self.max_tracks, max_events=256)

    @property
    def max_tracks(self) -> int:
        """Tracks followed at once."""
        return 8 * self.max_faces
