"""ScanResult -> HTML. All text passes through Jinja2's escaping; charts are our own SVG."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from importlib import resources

import jinja2
import msgspec
from markupsafe import Markup

from difffake.report.chart import clock, person_chart, status_strip
from difffake.results import EVIDENCES, LIMITS, ORIGINS, QUESTIONS, AnchorInfo, Evidence, Level, Person, ScanResult

_MAX_ROWS = 400

STATUS_WORDS = {
    "SCORED": "face scored",
    "NO_FACE": "no face",
    "LOW_QUALITY": "face not fit for scoring",
    "DECODE_ERROR": "frame could not be decoded",
}


class _Card(msgspec.Struct):
    """One evidence over everybody in the video."""

    evidence: str
    question: str
    limit: str
    level: Level | None
    sentence: str
    where: str


class _Row(msgspec.Struct):
    label: str
    span: str
    cells: list[Evidence | str]
    least_p: float


def render_report(result: ScanResult, scanned: datetime | None = None) -> str:
    """Render one self-contained HTML page of a scan, UTF-8; ``scanned`` is when that was, now if not given."""
    end_s = max([b.end_s for b in result.bands] + [0.001])
    rows = _rows(result)
    shown = sorted(rows, key=lambda row: row.least_p)[:_MAX_ROWS]
    keep = {id(row) for row in shown}
    return (
        _environment()
        .get_template("template.html")
        .render(
            result=result,
            scanned=f"{(scanned or datetime.now(UTC)).astimezone(UTC):%Y-%m-%d %H:%M} UTC",
            source=result.source,
            end_s=end_s,
            is_still=result.source.kind == "image",
            cards=_cards(result),
            limits=LIMITS,
            strip=Markup(status_strip(result.bands, end_s)),  # noqa: S704  (made of numbers and escaped text by us)
            statuses=[(s, STATUS_WORDS.get(s, s), n) for s, n in result.frames_by_status.items() if n],
            people=[(person, _chart(person, result, end_s)) for person in result.people],
            moments={e: [m for m in result.moments if m.evidence == e] for e in EVIDENCES},
            rows=[row for row in rows if id(row) in keep],
            row_count=len(rows),
            settings=msgspec.to_builtins(result.settings),
        )
    )


def _chart(person: Person, result: ScanResult, end_s: float) -> Markup:
    # The chart holds numbers and text that it escapes itself.
    switches = [s for s in result.switches if s.label == person.label]
    return Markup(person_chart(person, switches, result.settings, end_s))  # noqa: S704


def anchor_in_words(anchor: AnchorInfo) -> str:
    """Which anchor it is: whose, from where, how many frames.

    >>> anchor_in_words(AnchorInfo(origin="self", name=None, frames=8, start_s=0, end_s=1.4))
    "this person's own first good frames in this stream (8 frames, 0:00 to 0:01.4)"
    """
    if anchor.name is None:
        return f"{ORIGINS[anchor.origin]} ({anchor.frames} frames, {clock(anchor.start_s)} to {clock(anchor.end_s)})"
    source = f" from {anchor.source}" if anchor.source else ""
    when = f", {anchor.created[:10]}" if anchor.created else ""
    return f"{anchor.name}, {ORIGINS[anchor.origin]} ({anchor.frames} frames{source}{when})"


def _cards(result: ScanResult) -> list[_Card]:
    cards = []
    for evidence in EVIDENCES:
        found = [(p, v) for p in result.people if (v := p.verdicts.get(evidence)) is not None]
        if found:
            person, verdict = min(found, key=lambda item: item[1].p_value)
            level: Level | None = verdict.level
            sentence = verdict.sentence.removeprefix(f"{verdict.level}: ")
            sentence = sentence[:1].upper() + sentence[1:]
            where = f"{person.label}, most unusual from {clock(verdict.worst_start_s)} on"
        else:
            level, where = None, ""
            sentence = next((p.missing[evidence] for p in result.people if evidence in p.missing), "not available")
        cards.append(_Card(evidence, QUESTIONS[evidence], LIMITS[evidence], level, sentence, where))
    return cards


def shares(person: Person) -> list[tuple[str, str]]:
    """Evidence -> in how many of the windows in which it could be computed it was unusual; not for a single window."""
    told = []
    for evidence in EVIDENCES:
        levels = [found.level for window in person.windows if (found := getattr(window, evidence)) is not None]
        if len(levels) > 1:
            unusual, strong = sum(level.rank > 0 for level in levels), levels.count(Level.STRONG)
            told.append((evidence, f"{unusual} of {len(levels)} windows unusual, {strong} of them strong evidence"))
    return told


def _rows(result: ScanResult) -> list[_Row]:
    rows = []
    for person in result.people:
        for window in person.windows:
            cells: list[Evidence | str] = []
            for evidence in EVIDENCES:
                found: Evidence | None = getattr(window, evidence)
                cells.append(window.missing.get(evidence, "") if found is None else found)
            least = min((c.p_value for c in cells if isinstance(c, Evidence)), default=1.0)
            rows.append(_Row(person.label, f"{clock(window.start_s)} – {clock(window.end_s)}", cells, least))
    return rows


def _environment() -> jinja2.Environment:
    template = (resources.files("difffake.report") / "template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"template.html": template}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "clock": clock,
        "jpeg": _jpeg,
        "against": anchor_in_words,
        "p": format_p,
        "shares": shares,
        "slug": _slug,
        "size": _size,
    }
    environment.tests["evidence"] = lambda value: isinstance(value, Evidence)
    return environment


def format_p(p_value: float) -> str:
    """A p-value as people read it: two digits, no exponent down to 0.0001."""
    return f"{p_value:.2g}" if p_value >= 1e-4 else f"{p_value:.0e}"


def _jpeg(data: bytes | None) -> str:
    return "" if data is None else f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"


def _slug(level: Level | None) -> str:
    return {None: "none", Level.NOTHING: "nothing", Level.SUSPICIOUS: "suspicious", Level.STRONG: "strong"}[level]


def _size(value: float) -> str:
    return f"{value:g}"
