"""Prometheus rules: each tells of what it is for, of nothing else, and of nothing that no worker exposes."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from promql import DEPLOY, RULES, Rule, mistakes, rules

ALERTS = [rule for rule in rules() if rule.is_alert]
UNIT_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.test.yml"))


def _promtool(folder: Path, *arguments: str | Path) -> None:
    done = subprocess.run([folder / "promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_takes_the_rules_and_its_configuration(prometheus_folder: Path) -> None:
    _promtool(prometheus_folder, "check", "rules", *sorted(RULES.glob("*.yml")))
    _promtool(prometheus_folder, "check", "config", DEPLOY / "prometheus" / "prometheus.yml")


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.name.split(".")[0])
def test_rules_fire_when_they_should_and_not_otherwise(prometheus_folder: Path, file: Path) -> None:
    _promtool(prometheus_folder, "test", "rules", file)


def test_an_alert_that_never_fires_does_not_pass(prometheus_folder: Path, tmp_path: Path) -> None:
    """That the unit tests can fail: each alert's own test does, once its expression is one that is never true."""
    (tmp_path / "rules").mkdir()
    (tmp_path / "tests").mkdir()
    for file in RULES.glob("*.yml"):
        text = file.read_text()
        written = yaml.safe_load(text)
        for group in written["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    rule["expr"] = "vector(0) > 1"
        (tmp_path / "rules" / file.name).write_text(yaml.safe_dump(written))
    named = set()
    for file in UNIT_TESTS:
        (tmp_path / "tests" / file.name).write_text(file.read_text())
        done = subprocess.run(
            [prometheus_folder / "promtool", "test", "rules", tmp_path / "tests" / file.name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode
        named |= set(re.findall(r"DiffFake\w+", done.stdout + done.stderr))  # only what failed is printed
    assert {alert.name for alert in ALERTS} <= named


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_rules_ask_only_for_what_workers_expose(rule: Rule) -> None:
    assert mistakes(rule.expr) == []


def test_a_series_or_label_or_value_that_nobody_exposes_is_found() -> None:
    assert mistakes("sum by (job) (rate(difffake_frames_totl[5m]))") == ["no series difffake_frames_totl"]
    assert mistakes('difffake_ready{stream="a"}') == ["difffake_ready has no label stream"]
    assert mistakes("sum by (stream) (difffake_lag_seconds)") == ["difffake_lag_seconds has no label stream"]
    assert mistakes('rate(difffake_frames_total{status="GONE"}[5m])') == [
        "status of difffake_frames_total is never GONE"
    ]
    assert mistakes('difffake_evidence_p_value_bucket{le="0.02"}') == [
        "difffake_evidence_p_value_bucket has no bucket up to 0.02"
    ]
    assert mistakes('job:difffake_lag_seconds:max{stream="a"}') == ["job:difffake_lag_seconds:max has no label stream"]


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert.name)
def test_alerts_say_what_is_wrong_how_bad_it_is_and_where_to_read_on(alert: Rule) -> None:
    assert alert.raw["labels"]["severity"] in ("critical", "warning", "info")
    assert set(alert.raw["annotations"]) == {"summary", "description", "runbook_url"}
    assert len(alert.raw["annotations"]["summary"]) < 130
    page, anchor = alert.raw["annotations"]["runbook_url"].split("#")
    # As Markdown makes anchors of headings.
    headings = re.findall(r"^### (\w+)$", (DEPLOY.parent / page).read_text(), re.MULTILINE)
    assert anchor == alert.name.lower()
    assert alert.name in headings


def test_the_runbook_tells_of_no_alert_that_there_is_not() -> None:
    headings = re.findall(r"^### (DiffFake\w+)$", (DEPLOY.parent / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alert.name for alert in ALERTS)


def test_the_runbook_says_of_each_alert_what_it_means_how_to_see_it_what_to_do_and_what_not() -> None:
    sections = re.split(r"^### ", (DEPLOY.parent / "docs" / "runbook.md").read_text(), flags=re.MULTILINE)[1:]
    for section in sections:
        for part in ("**Means.**", "**Look.**", "**Do.**", "**Don't.**"):
            assert part in section, section.splitlines()[0]
