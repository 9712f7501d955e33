"""The HTML report: whole in itself, escaped, and readable without the numbers."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

import msgspec
import numpy as np
import pytest

from difffake.report import render_report
from difffake.report.chart import clock
from difffake.results import (
    AnchorInfo,
    Band,
    Evidence,
    FrameScores,
    Level,
    Moment,
    Person,
    ScanResult,
    Source,
    Span,
    Verdict,
    Window,
)
from difffake.settings import ScanSettings

JPEG = b"\xff\xd8\xff\xe0 not looked at \xff\xd9"


def make_result(frames: int = 40, name: str = "clip.mp4", warnings: tuple[str, ...] = ()) -> ScanResult:
    strong = Evidence(score=3.0, log_density=None, p_value=0.004, level=Level.STRONG, frames=frames // 2)
    calm = Evidence(score=1.0, log_density=-1.0, p_value=0.4, level=Level.NOTHING, frames=frames // 2)
    missing = {"identity": "not available in this bundle"}
    person = Person(
        label="person 1",
        name=None,
        start_s=0.0,
        end_s=(frames - 1) / 5,
        faces_seen=frames,
        faces_scored=frames,
        spans=[Span(0.0, (frames - 1) / 5)],
        ambiguous_with=[],
        anchors={"anchor": AnchorInfo(origin="self", name=None, frames=8, start_s=0.0, end_s=2.0)},
        verdicts={
            "artifact": Verdict(
                p_value=0.008,
                score=2.0,
                frames=frames,
                level=Level.STRONG,
                worst_start_s=0.0,
                sentence="strong evidence that X",
            ),
            "anchor": Verdict(
                p_value=0.4,
                score=1.0,
                frames=frames // 2,
                level=Level.NOTHING,
                worst_start_s=5.0,
                sentence="nothing unusual: Y",
            ),
        },
        scores={"artifact": "logit", "anchor": "distance_nearest"},
        missing=missing,
        windows=[
            Window(
                start_s=0,
                end_s=5,
                artifact=strong,
                anchor=None,
                identity=None,
                missing=missing | {"anchor": "warming up"},
            ),
            Window(start_s=5, end_s=10, artifact=calm, anchor=calm, identity=None, missing=missing),
        ],
        frames=FrameScores(
            time_s=[i / 5 for i in range(frames)],
            artifact_p=[0.5 / (i + 1) for i in range(frames)],
            anchor_p=[None if i < 10 else 0.4 for i in range(frames)],
            identity_p=[None] * frames,
        ),
        thumbnail_jpeg=JPEG,
    )
    moment = Moment(
        evidence="artifact",
        label="person 1",
        time_s=4.2,
        score=5.0,
        p_value=0.0125,
        level=Level.SUSPICIOUS,
        thumbnail_jpeg=JPEG,
        thumbnail_s=4.0,
    )
    return ScanResult(
        difffake="0.1.0",
        model_id="tiny-0123",
        source=Source(
            name=name,
            kind="video",
            sha256="ab" * 32,
            container="mov",
            codec="h264",
            width=640,
            height=360,
            rotation=0,
            fps=25.0,
            duration_s=10.0,
            pixel_format="yuv420p",
            interlaced=False,
        ),
        settings=ScanSettings(),
        frames_analysed=frames,
        frames_by_status={"SCORED": frames - 10, "NO_FACE": 6, "LOW_QUALITY": 4, "DECODE_ERROR": 0},
        coverage=0.75,
        people=[person],
        switches=[],
        moments=[moment],
        bands=[
            Band(start_s=0, end_s=6, status="SCORED", reason=""),
            Band(start_s=6, end_s=9, status="NO_FACE", reason=""),
            Band(start_s=9, end_s=10, status="LOW_QUALITY", reason="too <small>"),
        ],
        warnings=list(warnings),
    )


class _Check(HTMLParser):
    """Collects tags and addresses, and checks that tags are closed."""

    VOID = frozenset({"meta", "img", "br", "line", "rect", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def check(html: str) -> _Check:
    parser = _Check()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def test_the_page_is_well_formed_and_needs_nothing_else() -> None:
    html = render_report(make_result())
    parser = check(html)
    assert "script" not in parser.tags
    assert "link" not in parser.tags
    assert parser.addresses
    assert all(a.startswith("data:image/jpeg;base64,") for a in parser.addresses)
    assert not re.search(r"@import|url\(|https?://", html)
    assert "default-src 'none'" in html


def test_it_names_the_evidence_the_model_and_the_file() -> None:
    at = datetime(2026, 11, 26, 9, 30, tzinfo=timezone(timedelta(hours=1)))
    html = render_report(make_result(warnings=("truncated: the picture ends at 3.0 s of 10.0 s",)), at)
    for text in (
        "Does this face look manufactured?",
        "Strong evidence",
        "Nothing unusual",
        "not available in this bundle",
        "warming up",
        "tiny-0123",
        "ab" * 32,
        "75 % of 40 analysed frames",
        "no face: 6",
        "truncated: the picture ends at 3.0 s",
        "It is not the probability of a fake",
        "“Nothing unusual” does not mean genuine",
        "scanned 2026-11-26 08:30 UTC",
    ):
        assert text in html


def test_names_from_outside_are_escaped() -> None:
    html = render_report(make_result(name="<script>alert(1)</script>&\"'.mp4", warnings=("x: <img src=x>",)))
    parser = check(html)
    assert "script" not in parser.tags
    assert "&lt;script&gt;alert(1)" in html
    assert "too &lt;small&gt;" in html
    assert "<img src=x>" not in html


def test_coloured_words_can_be_read() -> None:
    """WCAG 2.2, 1.4.3: small text has a contrast of 4.5 or more, on paper and on dark screens."""
    html = render_report(make_result())
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", html, re.S)[:2]
    )
    for colours in (light, light | dark):
        pairs = [("ink", "page"), ("soft", "page"), ("soft", "card"), ("ink", "card")]
        for level in ("nothing", "suspicious", "strong", "none"):
            pairs += [(level, "card"), (level, f"{level}-tint")]
        for text, ground in pairs:
            assert _contrast(colours[text], colours[ground], colours["card"]) >= 4.5, (text, ground)


def _contrast(text: str, ground: str, below: str) -> float:
    def channels(colour: str) -> np.ndarray:
        digits = colour[1:] if len(colour) > 4 else "".join(2 * c for c in colour[1:])
        return np.array([int(digits[i : i + 2], 16) / 255 for i in range(0, len(digits), 2)])

    def luminance(rgb: np.ndarray) -> float:
        return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722))

    over, under = channels(ground), channels(below)
    share = over[3] if len(over) == 4 else 1.0
    dim, bright = sorted((luminance(channels(text)), luminance(share * over[:3] + (1 - share) * under)))
    return (bright + 0.05) / (dim + 0.05)


def test_long_videos_stay_small() -> None:
    result = make_result(frames=50_000)
    many = msgspec.structs.replace(result.people[0], windows=result.people[0].windows * 2000)
    html = render_report(msgspec.structs.replace(result, people=[many]))
    assert len(html) < 2_000_000
    assert "most suspicious of 4000" in html


def test_a_still_has_no_chart() -> None:
    result = make_result(frames=1)
    still = msgspec.structs.replace(
        result, source=msgspec.structs.replace(result.source, kind="image"), bands=result.bands[:1]
    )
    assert "svg" not in check(render_report(still)).tags


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00"), (9.96, "0:10"), (59.95, "1:00"), (61.5, "1:01.5"), (3661.2, "1:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_a_reason_that_two_evidences_share_is_told_once() -> None:
    result = make_result()
    missing = {"anchor": "no anchor: X", "identity": "no anchor: X"}
    person = msgspec.structs.replace(result.people[0], missing=missing)
    told = msgspec.structs.replace(result, people=[person]).summary().splitlines()
    assert [line.strip() for line in told if "no anchor" in line] == ["anchor and identity: no anchor: X"]
