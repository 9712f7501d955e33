"""A thousand days of natural footage and swaps, out of real clips: false alerts against budgets, and time to detect.

    python benchmarks/simulate_alerts.py CLIPS... [--side-by-side DIR] [--same a,b] --out OUT

CLIPS are real videos, or folders of them. Their people are divided by a hash of their names: half set the constants
(how fast frames come to say something new, how careful the calibrator must be), half judge. Genuine halves of
--side-by-side recordings judge only. Every stretch of footage is shown for as many hours as the others, an hour at a
time, its seconds drawn in runs (stationary bootstrap). Swaps: the face of another person laid on the judges' clips, and
the recorded swaps. With --fit the constants that the first half asks for are printed, and nothing is judged. Writes
OUT.md and OUT.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
from alerts_footage import FEWER, FPS, Footage, Stretch, clips_in
from alerts_model import assumed_alerts, detection_times, factors, false_alerts
from alerts_report import markdown
from numpy.typing import NDArray

from difffake import __version__
from difffake.detector import Detector
from difffake.results import EVIDENCES
from difffake.settings import ScanSettings
from stream.alerts import AlertSettings, Tuning

F64 = NDArray[np.float64]

BUDGETS = (1.0, 0.1, 0.01)
KAPPAS = (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001)
_RESAMPLES = 2000
_CONFIDENCE = 0.95
_LAGS = 5
#: The encoder that a stream changes to.
_OTHER = "H.264 CRF 35"


def sets_constants(person: str) -> bool:
    """Whether a person is among those who set the constants; the others judge."""
    return hashlib.sha256(f"alerts {person}".encode()).digest()[0] < 128


def decorrelation_s(stretches: Sequence[Stretch], column: int) -> dict[str, Any]:
    """How long two seconds of one face go on saying the same: 1 + 2 * the sum of the autocorrelations (Bayley and
    Hammersley 1946), each stretch against its own mean, up to the first that is not above 0."""
    found = []
    for lag in range(1, _LAGS + 1):
        pairs, squares, count = 0.0, 0.0, 0
        for stretch in stretches:
            x = stretch.log_p[:, column]
            x = x[np.isfinite(x)]
            if len(x) >= 2 * lag + 2:
                x = x - x.mean()
                pairs, squares, count = pairs + x[:-lag] @ x[lag:], squares + (x @ x) * (1 - lag / len(x)), count + 1
        if not count or squares <= 0:
            break
        found.append({"lag_s": lag, "correlation": pairs / squares, "clips": count})
        if found[-1]["correlation"] <= 0:
            break
    total = 1.0 + 2.0 * sum(max(row["correlation"], 0.0) for row in found)
    return {"seconds": total, "lags": found}


def growth(stretches: Sequence[Stretch], column: int, kappa: float) -> list[tuple[str, float, float]]:
    """Of every stretch: whose, the mean logarithm and the logarithm of the mean of its evidence in a second."""
    rows = []
    for stretch in stretches:
        x = stretch.log_p[:, column]
        x = x[np.isfinite(x)]
        if len(x):
            log_e = np.log(kappa) + (kappa - 1.0) * x
            rows.append((stretch.person, float(log_e.mean()), float(np.log(np.mean(np.exp(log_e))))))
    return rows


def fitted(stretches: Sequence[Stretch], bent: Sequence[Stretch]) -> dict[str, Any]:
    """The constants that footage asks for.

    The largest kappa with which nobody's evidence grows, in any encode and after a change of the encoder, and the next
    smaller one, which is taken: few people cannot show what one in a hundred does. For all evidence the longest
    decorrelation, rounded up to half a second.

    Args:
        stretches: anchor and rest of one encode.
        bent: the encoder changed after the anchor.
    """
    result: dict[str, Any] = {}
    for column, name in enumerate(EVIDENCES):
        steps = []
        for kappa in KAPPAS:
            rows = growth([*stretches, *bent], column, kappa)
            steps.append(
                {
                    "kappa": kappa,
                    "largest_growth": max((mean for _, mean, _ in rows), default=None),
                    "growing": sorted({person for person, mean, _ in rows if mean >= 0}),
                    "people": len({person for person, _, _ in rows}),
                }
            )
        largest = next((k for k, s in enumerate(steps) if not s["growing"]), None)
        result[name] = {
            "largest_kappa": None if largest is None else KAPPAS[largest],
            "kappa": KAPPAS[min(len(KAPPAS) - 1 if largest is None else largest + 1, len(KAPPAS) - 1)],
            "steps": steps,
            "decorrelation": decorrelation_s(stretches, column),
        }
    longest = max(found["decorrelation"]["seconds"] for found in result.values())
    for found in result.values():
        found["decorrelation_s"] = math.ceil(2 * longest) / 2
    return result


def judged(
    stretches: Sequence[Stretch], settings: AlertSettings, days: float, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """False alerts by budget and evidence, with intervals over people."""
    hours_each = max(1, round(24 * days / len(stretches)))
    rates = 24 * false_alerts([factors(s.log_p, settings) for s in stretches], hours_each, settings, BUDGETS, rng)
    rates = np.concatenate([rates, rates.sum(axis=2, keepdims=True)], axis=2)
    people = np.array([s.person for s in stretches])
    names = sorted(set(people))
    by_person = np.array([rates[people == name].mean(axis=0) for name in names])
    draws = rng.integers(0, len(names), (_RESAMPLES, len(names)))
    rows = []
    for b, budget in enumerate(BUDGETS):
        for e, name in enumerate((*EVIDENCES, "all")):
            values = by_person[:, b, e]
            low, high = np.quantile(values[draws].mean(axis=1), [(1 - _CONFIDENCE) / 2, (1 + _CONFIDENCE) / 2])
            share = 1.0 if name == "all" else settings.tuning(name).share  # type: ignore[arg-type]
            concerned = [n for n, v in zip(names, values, strict=True) if v > 0]
            rows.append(
                {
                    "budget_per_day": budget,
                    "evidence": name,
                    "allowed_per_day": budget * share,
                    "per_day": float(values.mean()),
                    "low": float(low),
                    "high": float(high),
                    "without_the_worst": float(np.sort(values)[:-1].mean()) if len(values) > 1 else None,
                    "people": len(names),
                    "people_concerned": concerned,
                    "share_of_people_at_most": _at_most(len(concerned), len(names)),
                    "stream_days": hours_each * len(stretches) / 24,
                }
            )
    return rows


#: What it is, correlation from second to second, the person's own share of the variance.
_ASSUMED = (
    ("every second says something new", 0.0, 0.0),
    ("correlation of neighbouring seconds .1", 0.1, 0.0),
    ("correlation of neighbouring seconds .5", 0.5, 0.0),
    ("correlation of neighbouring seconds .9", 0.9, 0.0),
    ("correlation .1; a tenth of the variance is the person's own", 0.1, 0.1),
    ("correlation .1; half of the variance is the person's own", 0.1, 0.5),
)


def assumed(settings: AlertSettings, days: float, rng: np.random.Generator) -> list[dict[str, Any]]:
    """False alerts where p-values are as they should be, and where they are not."""
    rows, hours = [], round(24 * days)
    for what, correlation, person_share in _ASSUMED:
        counts = assumed_alerts(hours, settings, BUDGETS, rng, correlation=correlation, person_share=person_share)
        for b, budget in enumerate(BUDGETS):
            of_hour = counts[:, b].sum(axis=1)
            # Hours are independent: another person in each.
            spread = 24 * of_hour.std() / math.sqrt(hours)
            rows.append(
                {
                    "what": what,
                    "correlation": correlation,
                    "person_share": person_share,
                    "budget_per_day": budget,
                    "per_day": float(24 * of_hour.mean()),
                    "standard_error": float(spread),
                    "by_evidence": {n: float(24 * counts[:, b, e].mean()) for e, n in enumerate(EVIDENCES)},
                    "stream_days": hours / 24,
                }
            )
    return rows


def _at_most(hit: int, of: int) -> float:
    """Clopper and Pearson's upper bound."""
    from scipy.stats import beta

    return 1.0 if hit >= of else float(beta.ppf(_CONFIDENCE, hit + 1, of - hit))


def detected(
    swaps: Sequence[Stretch],
    natural: Sequence[Stretch],
    settings: AlertSettings,
    repeats: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Seconds to an alert by budget and evidence."""
    by_person = {s.person: factors(s.log_p, settings) for s in natural}
    swaps = [s for s in swaps if s.person in by_person]
    if not swaps:
        return []
    taken = detection_times(
        [by_person[s.person] for s in swaps],
        [factors(s.log_p, settings) for s in swaps],
        repeats,
        settings,
        BUDGETS,
        rng,
    )
    rows = []
    for b, budget in enumerate(BUDGETS):
        for e, name in enumerate((*EVIDENCES, "any")):
            values = taken[:, :, b, e]
            p50, p95 = np.quantile(values, [0.5, 0.95], method="inverted_cdf")
            rows.append(
                {
                    "budget_per_day": budget,
                    "evidence": name,
                    "swaps": len(swaps),
                    "people": len({s.person for s in swaps}),
                    "found_in_30_s": float((values <= 30).mean()),
                    "found_in_600_s": float(np.isfinite(values).mean()),
                    "p50_s": float(p50) if np.isfinite(p50) else None,
                    "p95_s": float(p95) if np.isfinite(p95) else None,
                }
            )
    return rows


def _seconds(stretches: Sequence[Stretch]) -> float:
    return float(sum(len(s.log_p) for s in stretches))


def _require(stretches: Sequence[Stretch], footage: Footage, parser: argparse.ArgumentParser) -> None:
    """End where nothing is left to look at."""
    if not stretches:
        why = sorted({f"{out['clip']}: {out['reason']}" for out in footage.left_out})
        parser.error(f"no clip can be used ({'; '.join(why[:5])}). Give clips of one face, of 10 s and more")


def _settings(options: argparse.Namespace, parser: argparse.ArgumentParser) -> AlertSettings:
    settings = AlertSettings()
    changed: dict[str, Tuning] = {}
    for name, kappa, seconds in options.tuning:
        if name not in EVIDENCES or not all(part.replace(".", "", 1).isdigit() for part in (kappa, seconds)):
            parser.error(f"--tuning {name} {kappa} {seconds}: one of {', '.join(EVIDENCES)} and two numbers")
        changed[name] = msgspec.structs.replace(
            settings.tuning(name), kappa=float(kappa), decorrelation_s=float(seconds)
        )
    return msgspec.structs.replace(settings, **changed)


def main(arguments: list[str] | None = None) -> None:
    """Look, simulate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="real videos, or folders of them")
    parser.add_argument("--side-by-side", type=Path, help="folder of recorded swaps; judges only")
    parser.add_argument("--same", action="append", default=[], help="names of clips of one person: a,b[,c]")
    parser.add_argument("--skip", action="append", default=[], help="name of a clip to leave out")
    parser.add_argument("--bundle", type=Path, help="model bundle; the shipped one by default")
    parser.add_argument("--cache", type=Path, default=Path(".cache/evaluation"))
    parser.add_argument("--days", type=float, default=1000.0, help="stream-days of natural footage per condition")
    parser.add_argument("--repeats", type=int, default=200, help="times that every swap is spliced in")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fit", action="store_true", help="print what the first half of the people asks for, and stop")
    parser.add_argument(
        "--tuning", nargs=3, action="append", default=[], metavar=("EVIDENCE", "KAPPA", "SECONDS"), help="try another"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "simulate_alerts")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(max(1, options.threads))
    began_s = time.monotonic()
    people = {name: group.split(",")[0] for group in options.same for name in group.split(",")}
    items = clips_in(options.clips, set(options.skip))
    setting = [i for i in items if sets_constants(people.get(i.video, i.person))]
    judging = [i for i in items if not sets_constants(people.get(i.video, i.person))]
    missing = [str(path) for path in options.clips if not path.exists()]
    judges = {people.get(i.video, i.person) for i in judging}
    if missing:
        parser.error(f"there is no {missing[0]}")
    if not setting or (not options.fit and len(judges) < 2):
        parser.error(
            f"of {len(items)} videos, {len(setting)} are of people who set constants and {len(judges)} people judge: "
            "a hash of their names decides. Give videos of more people, each file (not folder) named after its person"
        )
    if not options.days > 0 or math.isinf(options.days) or options.repeats < 1:
        parser.error("--days and --repeats must be above 0")
    settings, rng = _settings(options, parser), np.random.default_rng(options.seed)
    with Detector.load(options.bundle, ScanSettings(threads=options.threads)) as detector:
        footage = Footage(detector, options.cache)
        known = footage.real(setting, people)
        _require(known, footage, parser)
        constants = fitted(known, footage.other_encode(setting, people, _OTHER))
        if options.fit:
            print(json.dumps(constants, indent=1))
            return
        natural = {"judging clips": footage.real(judging, people)}
        _require(natural["judging clips"], footage, parser)
        swaps = {"made: another face laid on": footage.swapped(judging, people)}
        bent = {f"{c}, anchor as recorded": footage.other_encode(judging, people, c) for c in (_OTHER,)}
        if options.side_by_side is not None:
            genuine, recorded = footage.side_by_side(options.side_by_side)
            natural["side-by-side, genuine halves"] = footage.real(genuine, people, FEWER)
            swaps["side-by-side, recorded live swaps"] = recorded
        model_id = detector.model_id
    everything = [s for part in natural.values() for s in part]
    rows = []
    for source, stretches in natural.items():
        for condition in dict.fromkeys(s.condition for s in stretches):
            chosen = [s for s in stretches if s.condition == condition]
            about = {"footage": source, "condition": condition, "seconds": _seconds(chosen)}
            rows += [about | row for row in judged(chosen, settings, options.days, rng)]
    for condition, stretches in bent.items():
        about = {"footage": "judging clips", "condition": condition, "seconds": _seconds(stretches)}
        rows += [about | row for row in judged(stretches, settings, options.days, rng)]
    # They judge nothing, but they are genuine, too; with numbers of their own, so that the others' stay.
    own = np.random.default_rng(options.seed)
    for condition in dict.fromkeys(s.condition for s in known):
        chosen = [s for s in known if s.condition == condition]
        about = {"footage": "clips that set the constants", "condition": condition, "seconds": _seconds(chosen)}
        rows += [about | row for row in judged(chosen, settings, options.days, own)]
    times = []
    for source, stretches in swaps.items():
        for condition in dict.fromkeys(s.condition for s in stretches):
            chosen = [s for s in stretches if s.condition == condition]
            same = [s for s in everything if s.condition == condition]
            about = {"swaps_from": source, "condition": condition, "seconds": _seconds(chosen)}
            times += [about | row for row in detected(chosen, same, settings, options.repeats, rng)]
    report = {
        "model": model_id,
        "difffake": __version__,
        "fps": FPS,
        "seed": options.seed,
        "settings": msgspec.to_builtins(settings),
        "setting_clips": [i.video for i in setting],
        "judging_clips": [i.video for i in judging],
        "same": options.same,
        "constants": constants,
        "growing": {n: _growing(everything, c, settings.tuning(n).kappa) for c, n in enumerate(EVIDENCES)},  # type: ignore[arg-type]
        "left_out": footage.left_out,
        "assumed": assumed(settings, options.days, rng),
        "false_alerts": rows,
        "detection": times,
        "wall_s": round(time.monotonic() - began_s, 1),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.with_suffix(".json").write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    options.out.with_suffix(".md").write_text(markdown(report), encoding="utf-8")
    print(markdown(report))


def _growing(stretches: Sequence[Stretch], column: int, kappa: float) -> dict[str, Any]:
    rows = growth(stretches, column, kappa)
    return {
        "people": len({person for person, _, _ in rows}),
        "growing": sorted({person for person, mean, _ in rows if mean >= 0}),
        "mean_above_1": sorted({person for person, _, log_mean in rows if log_mean > 0}),
    }


if __name__ == "__main__":
    main()
