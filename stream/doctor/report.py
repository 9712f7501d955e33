"""What the doctor says, as data: the same for the terminal and for ``--json``."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class State(StrEnum):
    """``problem``: no worker can run so; ``note``: it can, and something could be better."""

    OK = "ok"
    NOTE = "note"
    PROBLEM = "problem"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at, what was found, and what to do about it."""

    name: str
    value: str
    state: State = State.OK
    hint: str = ""


class Section(msgspec.Struct, frozen=True):
    """Checks that belong together."""

    title: str
    checks: list[Check]


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """An engine of one of the model's networks.

    Args:
        network: ``extractor``, ``identity`` or ``detector``.
        kind: of `engines.choose.EngineKind`.
        label: names it in model ids; empty where it does not run.
        runs: whether it opens here.
        is_used: whether the options given choose it; ``is_best``: whether ``--engine auto`` would.
        reason, hint: why it does not run, and what mends that.
        per_s: faces (images, for the detector) per second, by batch size; empty where not measured.
    """

    network: str
    kind: str
    label: str = ""
    runs: bool
    is_used: bool = False
    is_best: bool = False
    reason: str = ""
    hint: str = ""
    per_s: dict[int, float] = {}


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    format: int = 1
    difffake: str
    model_id: str | None
    sections: list[Section]
    engines: list[EngineRow]

    @property
    def problems(self) -> list[Check]:
        """What keeps a worker from running."""
        return [check for section in self.sections for check in section.checks if check.state is State.PROBLEM]
