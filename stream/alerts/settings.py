"""What alerts may be told: the budget of false ones, how evidence is accumulated, how alerts live."""

from __future__ import annotations

import math

import msgspec

from stream.messages import EvidenceName

DAY_S = 86_400.0


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one evidence is accumulated; set by ``benchmarks/simulate_alerts.py --fit`` on real footage.

    Args:
        share: of the budget of false alerts.
        kappa: of the calibrator ``e(p) = kappa * p ** (kappa - 1)``. A real face whose p-values are always below
            ``kappa ** (1 / (1 - kappa))``, a little less than kappa, would raise an alert in the end: small is safe,
            large is quick.
        decorrelation_s: after so long two frames of a real face say different things; what is said within counts once.
    """

    share: float
    kappa: float
    decorrelation_s: float

    def __post_init__(self) -> None:
        if not (0 < self.share <= 1 and 0 < self.kappa < 1 and 0 < self.decorrelation_s < math.inf):
            raise ValueError(f"a share of (0, 1], a kappa of (0, 1) and a positive time, not {self}")


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When alerts open and close; all times in seconds of stream time.

    Args:
        budget_per_day: false alerts per stream-day, of all evidence together; see ``docs/alerts.md`` for what holds.
        block_s: frames of so long are put together to one piece of evidence; alerts open where a block ends.
        artifact, anchor, identity: how each evidence is accumulated; their shares of the budget add up to 1 at most.
        burst_s: evidence that reached the level within so long of its run's first frame is called a spike.
        update_s: an open alert is told again so often, and whenever its p-value has fallen by a factor of ten.
        seen_s: one that an operator has seen so often, and as above when it gets worse: whoever reads the last hour of
            alerts (`stream.wall`) knows all that are open.
        close_s: it is closed when evidence was below suspicious for so long.
        gone_s: or when nothing was heard of the person's evidence for so long; frames that nobody looked at let no time
            pass.
        cooldown_s: after the last frame of an alert no other one of that person and evidence opens for so long.
        forget_s: what was accumulated about somebody unheard of for so long is forgotten.
        ended_s: an alert is closed when no record of the stream came for so long by the machine's clock, and none waits
            to be read.
        max_watched: persons and evidences watched at once; the longest unheard of is given up beyond.
        thumbnails: whether alerts carry a picture of the face.
    """

    budget_per_day: float = 0.01
    block_s: float = 1.0
    artifact: Tuning = Tuning(share=0.25, kappa=0.01, decorrelation_s=1.5)
    anchor: Tuning = Tuning(share=0.25, kappa=0.01, decorrelation_s=1.5)
    identity: Tuning = Tuning(share=0.5, kappa=0.05, decorrelation_s=1.5)
    burst_s: float = 10.0
    update_s: float = 10.0
    seen_s: float = 3600.0
    close_s: float = 3.0
    gone_s: float = 10.0
    cooldown_s: float = 30.0
    forget_s: float = 3600.0
    ended_s: float = 60.0
    max_watched: int = 256
    thumbnails: bool = True

    def __post_init__(self) -> None:
        values = {n: getattr(self, n) for n in self.__struct_fields__ if n != "thumbnails"}
        numbers = {n: v for n, v in values.items() if not isinstance(v, Tuning)}
        if wrong := {n: v for n, v in numbers.items() if not (math.isfinite(v) and v > 0)}:
            raise ValueError(f"settings of alerts must be positive: {wrong}")
        if sum(v.share for v in values.values() if isinstance(v, Tuning)) > 1 + 1e-9:
            raise ValueError("the evidences' shares of the budget of false alerts add up to more than 1")
        check_budget(self.budget_per_day, self.block_s)

    def tuning(self, evidence: EvidenceName) -> Tuning:
        """Of one evidence."""
        found: Tuning = getattr(self, evidence)
        return found

    def share(self, evidence: EvidenceName) -> float:
        """The evidence's part of the budget, false alerts per stream-day."""
        return self.budget_per_day * self.tuning(evidence).share

    def log_level(self, evidence: EvidenceName, budget_per_day: float) -> float:
        """Natural logarithm of the accumulated evidence at which an alert opens: the blocks of a day for each false
        alert that the evidence may raise in it."""
        blocks = DAY_S / self.block_s
        return max(math.log(blocks / (budget_per_day * self.tuning(evidence).share)), 0.0)


def check_budget(per_day: float, block_s: float) -> None:
    """Refuse a budget that is none.

    Raises:
        ValueError: not positive, or more alerts than there are blocks.
    """
    if not 0 < per_day <= DAY_S / block_s:
        raise ValueError(f"budget_per_day: false alerts per stream-day, above 0 and up to {DAY_S / block_s:g}")
