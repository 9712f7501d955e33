"""How rare a face's score is in real footage, as alerts take it, and what that is worth as evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import msgspec

from difffake.bundle import Bundle
from difffake.calibration import Calibration
from stream.messages import EvidenceName, FaceEvidence, HeldAgainst

#: Of the manifest's evidence: the same statistic, calibrated on footage of other days.
_ENROLLED = "identity_enrolled"
_LEAST_P = 1e-12


@dataclass(frozen=True, slots=True)
class Rarity:
    """The p-value that is accumulated.

    A stream lasts for days; the calibration for an anchor from the same stream stems from clips of seconds. So identity
    is judged by how much real people differ from footage of *other days*, whatever the anchor: far more people stand
    behind that, and light and hair may change from morning to evening.

    Args:
        other_days: of the identity statistic; None: the scores' own p-values are taken.
    """

    other_days: Calibration | None = None

    @classmethod
    def of(cls, bundle: Bundle) -> Self:
        """The rarity that a bundle's calibrations allow."""
        manifest = bundle.manifest
        names = manifest.evidence.get("identity"), manifest.evidence.get(_ENROLLED)
        specs = [manifest.scores.get(name or "") for name in names]
        if specs[0] is None or specs[1] is None:
            return cls()
        # Only one statistic with two calibrations can be read by either.
        same = msgspec.structs.replace(specs[0], evidence=specs[1].evidence) == specs[1]
        return cls(bundle.calibrations.get(names[1] or "") if same else None)

    def p_value(self, evidence: EvidenceName, said: FaceEvidence) -> float:
        """Of what is said about one face in one frame."""
        if evidence == "identity" and said.against is HeldAgainst.OWN and self.other_days is not None:
            return float(self.other_days.p_value([said.score])[0])
        return said.p_value


def log_evidence(p_value: float, kappa: float) -> float:
    """Natural logarithm of ``kappa * p ** (kappa - 1)``: its mean is 1 where p is uniform, and below where p is larger
    (Vovk & Wang 2021, "E-values: calibration, combination and applications")."""
    return math.log(kappa) + (kappa - 1.0) * math.log(max(p_value, _LEAST_P))


def log_add(accumulated: float | None, weight: float) -> float:
    """``log(exp(accumulated) + weight)``; None is nothing accumulated yet."""
    added = math.log(weight)
    if accumulated is None:
        return added
    high, low = max(accumulated, added), min(accumulated, added)
    return high + math.log1p(math.exp(low - high))
