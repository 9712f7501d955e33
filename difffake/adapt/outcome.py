"""What `difffake adapt` is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from difffake.adapt.cross import Recipe
from difffake.adapt.probe import FileProbe
from difffake.bundle import Bundle
from difffake.errors import DataError
from difffake.evaluation.bootstrap import Difference, Performance
from difffake.evaluation.layouts import Layout
from difffake.evaluation.protocol import Level
from difffake.evaluation.recompress import MAX_CRF, Codec

#: Below these a head would be a portrait of its few clips.
MIN_VIDEOS = 10
MIN_PEOPLE = 8
#: What a head may lose, in AUC, where the footage was encoded again, and on pseudo-fakes of families not seen.
MAX_LOSS_ENCODED = 0.02
MAX_LOSS_UNSEEN = 0.03


class Use(StrEnum):
    """Whether heads become the bundle's reading of `artifact` and `anchor`."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptSettings:
    """Labelled footage and how to learn from it.

    Args:
        real, fake: folders of real videos and of fakes, see `difffake.adapt.listing.list_labelled`.
        data: data sets by layout.
        series: keep videos together, and take for one source, whose names differ in a last number alone.
        crfs: besides as recorded, everything is also learnt and judged re-encoded at these CRFs, real and fake alike.
        anchor_pseudo_share: the recipe's ``pseudo_share`` for the head on differences to an anchor, if another.
        towards_length: how far that head is drawn towards the size of the difference; 1: as much as the labels.
        use: `Use.AUTO` lets the figures decide, see `Transfer.helps`.
        stills: a head that reads `artifact` reads still pictures, too; else those stay with the score so far.
        description: of the data, for the manifest.
    """

    cache: Path
    real: tuple[Path, ...] = ()
    fake: tuple[Path, ...] = ()
    data: tuple[tuple[Layout, Path], ...] = ()
    series: bool = False
    crfs: tuple[int, ...] = (23, 35)
    fps: float = 4.0
    max_frames: int = 400
    recipe: Recipe = field(default_factory=Recipe)
    anchor_pseudo_share: float | None = None
    towards_length: float = 1.0
    use: Use = Use.AUTO
    stills: bool = False
    description: str = "not stated"
    draws: int = 1000

    def __post_init__(self) -> None:
        if not self.data and not (self.real and self.fake):
            raise DataError("nothing to adapt to", hint="give --real DIR and --fake DIR, or --data LAYOUT=DIR")
        for crf in self.crfs:
            if not 0 <= crf <= MAX_CRF[Codec.H264]:
                raise DataError(
                    f"a CRF of {crf} does not exist", hint=f"choose 0 (best) to {MAX_CRF[Codec.H264]} (worst)"
                )
        for share in (self.recipe.pseudo_share, self.anchor_pseudo_share or 0.0):
            if not 0 <= share < 1:
                raise DataError(f"a share of {share} for pseudo-fakes", hint="choose 0 to below 1")
        for times, what in ((self.recipe.towards_logit, "the logit"), (self.towards_length, "the difference's size")):
            if not 0 <= times <= 1000:
                raise DataError(f"{times} times {what}", hint="choose 0 (not) to 1000")
        if not 0 <= self.draws <= 100_000 or self.recipe.seed < 0:
            raise DataError(
                f"{self.draws} draws, seed {self.recipe.seed}", hint="choose 0 to 100000 draws, a seed from 0"
            )
        if not 0.01 <= self.fps <= 1000 or not 1 <= self.max_frames <= 1_000_000:
            raise DataError(f"{self.fps} frames a second, {self.max_frames} of a video", hint="choose more, or fewer")


@dataclass(frozen=True, slots=True)
class Transfer:
    """Does a score of a head help against what it has not seen? All AUCs are of left-out groups.

    Args:
        score, baseline: what is compared, and with which reading of the same evidence.
        sources: ``[source] -> (head, baseline)``: video AUC on fakes of a source of which no fake was in the fit.
        over_baseline: ``[variant][level]``, paired.
        families, families_are_unseen: the same on pseudo-fakes, frame or clip AUC; of families of which none was in the
            fit, or of people alone who were not.
        across: whether heads were judged on sources that they had not seen.
        false_windows: share of genuine windows of 5 s below p = .05, people weighing the same.
    """

    score: str
    baseline: str
    over_baseline: dict[str, dict[Level, Difference]]
    sources: dict[str, tuple[float, float]]
    families: dict[str, tuple[float, float]]
    families_are_unseen: bool
    across: bool
    false_windows: float

    @property
    def reasons_against(self) -> list[str]:
        """Why the score should not become the reading of its evidence; empty where it should."""
        found = []
        if not self.across:
            found.append("whether it helps on fakes of other tools cannot be told from fakes of one")
        recorded, *encoded = self.over_baseline.items()
        gain = recorded[1][Level.VIDEO].difference
        if gain.interval is None or gain.interval[0] <= 0:
            found.append(f"its gain over {self.baseline} on unseen groups, {gain.value:+.3f}, is not certain")
        for name, levels in encoded:
            if not levels[Level.VIDEO].difference.value >= -MAX_LOSS_ENCODED:
                found.append(f"at {name} it is {levels[Level.VIDEO].difference.value:+.3f} against {self.baseline}")
        for what, pairs, allowed in (
            ("fakes of sources", self.sources, 0.0),
            (f"pseudo-fakes of {'families' if self.families_are_unseen else 'people'}", self.families, MAX_LOSS_UNSEEN),
        ):
            change = _mean_change(pairs)
            if change is not None and not change >= -allowed:
                found.append(f"on {what} that it has not seen it is {change:+.3f} against {self.baseline}")
        if not self.false_windows <= 0.10:
            found.append(f"{self.false_windows:.0%} of genuine windows of people it has not seen lie below p = .05")
        return found

    @property
    def helps(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.reasons_against


def _mean_change(pairs: dict[str, tuple[float, float]]) -> float | None:
    changes = [head - baseline for head, baseline in pairs.values()]
    return sum(changes) / len(changes) if changes else None


@dataclass(frozen=True, slots=True)
class AdaptReport:
    """A bundle with a head, and what can be expected of it.

    Args:
        figures: ``[variant][score][level]``: all by heads that have not seen the group that they judge.
        pseudo_fakes: ``[score][family]``: AUC over frames.
        chosen: head -> the recipe of the one that is kept; ``chosen_in_folds``: the recipes of the folds.
        transfer: evidence -> what became of the best score of a head that reads it.
        stands: evidence -> the score that reads it from now on: of heads, and of still pictures the one before them.
        left_out: video -> why it could not be used.
    """

    bundle: Bundle
    settings: AdaptSettings
    counts: dict[str, int]
    groups: int
    figures: dict[str, dict[str, dict[Level, Performance]]]
    over_baseline: dict[str, dict[str, dict[Level, Difference]]]
    pseudo_fakes: dict[str, dict[str, float]]
    transfer: dict[str, Transfer]
    probe: FileProbe
    chosen: dict[str, str]
    chosen_in_folds: dict[str, tuple[str, ...]]
    stands: dict[str, str]
    left_out: dict[str, str]
    notes: tuple[str, ...]
