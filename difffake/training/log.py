"""The run's log: one JSON object a line, of training or of validation."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from difffake.errors import DataError
from difffake.files import write_whole, writing
from difffake.training.validation import Validation


class LogLine(msgspec.Struct, frozen=True, tag="train", tag_field="kind"):
    """Mean loss since the last line, learning rate, speed (real and fake images), seconds of training."""

    step: int
    loss: float
    lr: float
    images_per_s: float
    elapsed_s: float


class ValidationLine(msgspec.Struct, frozen=True, tag="validation", tag_field="kind"):
    """What held-out people said after ``step`` steps."""

    step: int
    auc: Validation


class RunLog:
    """Appends lines; a continued run first forgets what came after its checkpoint.

    Raises:
        DataError: an existing log that is damaged other than by a torn last line.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self.lines: list[LogLine] = []
        self.validations: list[ValidationLine] = []
        rows = path.read_bytes().splitlines() if path.exists() else []
        for number, row in enumerate(rows):
            try:
                entry = msgspec.json.decode(row, type=LogLine | ValidationLine)
            except msgspec.MsgspecError as error:
                if number == len(rows) - 1:
                    break  # the machine went down while writing it
                raise DataError(
                    f"line {number + 1} of {path} is damaged", hint="remove the log; the run goes on without it"
                ) from error
            if entry.step <= step:
                self._remember(entry)
        entries: list[LogLine | ValidationLine] = [*self.lines, *self.validations]
        entries.sort(key=lambda entry: entry.step)
        write_whole(path, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))

    @property
    def last_validation(self) -> Validation | None:
        """The newest figures."""
        return self.validations[-1].auc if self.validations else None

    @property
    def last_validated(self) -> int | None:
        """The step they were taken at."""
        return self.validations[-1].step if self.validations else None

    def add(self, entry: LogLine | ValidationLine) -> None:
        """Append a line."""
        self._remember(entry)
        with writing(self._path), self._path.open("ab") as file:
            file.write(msgspec.json.encode(entry) + b"\n")

    def add_validation(self, step: int, auc: Validation) -> None:
        """Append figures on held-out people."""
        self.add(ValidationLine(step, auc))

    def flush(self) -> None:
        """Bring all lines to the disk, so that they are not older than a checkpoint."""
        if self._path.exists():
            with self._path.open("rb") as file:
                os.fsync(file.fileno())

    def _remember(self, entry: LogLine | ValidationLine) -> None:
        if isinstance(entry, LogLine):
            self.lines.append(entry)
        else:
            self.validations.append(entry)
