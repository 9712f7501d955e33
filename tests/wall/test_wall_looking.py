"""What a tile says: clean only where somebody looked within the last seconds."""

from __future__ import annotations

import pytest
from records_made_up import S
from wall_world import Told, evidence, face

from difffake.results import Level
from stream.broker.contract import TopicPartition
from stream.messages import AlertState, Command, CommandRecord, Status
from stream.metrics.coverage import QUIET_S, Coverage
from stream.wall.looking import Input

STRONG = face(identity=evidence(0.0004, Level.STRONG))

INPUT = TopicPartition("video.in", 0)


def test_a_face_that_was_scored_just_now_is_clean_and_no_longer_after_some_seconds() -> None:
    told = Told()
    told.score("a")
    assert told.said("a") == ("clean", "")
    told.clock.advance(9)
    told.wall.turn()
    assert told.said("a") == ("clean", "")
    told.clock.advance(2)
    told.wall.turn()
    assert told.said("a") == ("not-looking", "silent")


@pytest.mark.parametrize(
    ("status", "why", "trouble"),
    [
        (Status.NO_FACE, "no-face", False),
        (Status.LOW_QUALITY, "no-usable-face", False),
        (Status.WARMING_UP, "warming-up", False),
        (Status.SHED, "shed", True),
        (Status.DECODE_ERROR, "damaged", True),
        (Status.STALE, "stale", True),
    ],
)
def test_frames_without_a_scored_face_are_never_clean(status: Status, why: str, trouble: bool) -> None:
    told = Told()
    for _ in range(30):
        told.score("a", status=status)
        told.clock.advance(0.5)
    told.wall.turn()
    assert told.said("a") == ("not-looking", why)
    assert told.tiles()["a"]["trouble"] is trouble


def test_a_scored_face_counts_for_some_seconds_among_frames_that_show_none() -> None:
    told = Told()
    told.score("a")
    told.clock.advance(3)
    told.score("a", status=Status.NO_FACE)
    assert told.said("a") == ("clean", "")
    for _ in range(10):
        told.clock.advance(1)
        told.score("a", status=Status.NO_FACE)
    assert told.said("a") == ("not-looking", "no-face")
    assert told.tiles()["a"]["coverage"] == 1.0, "frames without a face were looked at all the same"


def test_coverage_is_that_of_the_metrics_and_none_when_no_frame_comes() -> None:
    told, coverage = Told(), Coverage()
    for status in (Status.SCORED, Status.NO_FACE, Status.SHED, Status.LOW_QUALITY, Status.NO_FACE):
        told.score("a", status=status)
        coverage.add(round(told.clock.now_s * S), status)
        told.clock.advance(4)
    assert told.tiles()["a"]["coverage"] == pytest.approx(coverage.ratio, abs=1e-3)
    told.clock.advance(QUIET_S)
    told.wall.turn()
    assert told.tiles()["a"]["coverage"] == 0.0


def test_suspicion_comes_from_accumulated_evidence_and_goes_with_time() -> None:
    told = Told()
    told.score("a", face(artifact=evidence(0.001, Level.STRONG, accumulated=False)))
    assert told.said("a")[0] == "clean", "one frame alone is no finding"
    told.score("a", face(artifact=evidence(0.03, Level.SUSPICIOUS)))
    assert told.said("a")[0] == "suspicious"
    for _ in range(12):
        told.clock.advance(1)
        told.score("a")
    assert told.said("a")[0] == "clean"


def test_an_open_alert_outweighs_all_and_the_tile_still_tells_that_nobody_looks() -> None:
    told = Told()
    told.score("a")
    told.alert()
    assert told.said("a") == ("alert", "")
    told.clock.advance(30)
    told.wall.turn()
    assert told.said("a") == ("alert", "silent")
    told.alert(state=AlertState.CLOSED)
    assert told.said("a") == ("not-looking", "silent")


def test_kafka_gone_makes_everything_unknown_and_back_it_is_not_clean_before_somebody_looks() -> None:
    told = Told()
    told.score("a")
    told.wall.connected(False, "gone")
    assert told.said("a") == ("not-looking", "disconnected")
    told.clock.advance(60)
    told.wall.connected(True)
    assert told.said("a") == ("not-looking", "silent")
    told.score("a")
    assert told.said("a") == ("clean", "")


def test_a_worker_that_is_far_behind_is_not_looking_at_what_is_on_air() -> None:
    told = Told()
    told.score("a", pts_s=told.clock.now_s - 120)
    assert told.said("a") == ("not-looking", "behind")
    told.score("b", pts_s=12.5)
    assert told.said("b") == ("clean", ""), "times that are no times of day say nothing about a delay"


def test_silence_is_explained_by_the_input_partition() -> None:
    told = Told()
    told.score("a")
    told.score("b", partition=1)
    for _ in range(12):
        told.clock.advance(1)
        told.score("b", partition=1)
    told.wall.turn()
    assert told.said("a") == ("not-looking", "silent"), "nobody has asked yet"
    told.wall.explain(INPUT, Input.IDLE)
    told.wall.turn()
    assert told.said("a") == ("not-looking", "no-frames")
    told.wall.explain(INPUT, Input.UNSERVED)
    told.wall.turn()
    assert told.said("a") == ("not-looking", "worker-gone")
    told.score("c")
    told.wall.turn()
    assert told.said("a") == ("not-looking", "no-frames"), "others of its partition are being scored"


def test_a_stream_that_begins_anew_forgets_its_later_seconds() -> None:
    told = Told()
    told.score("a", pts_s=1000)
    told.score("a", pts_s=1001)
    told.score("a", pts_s=3)
    tile = told.tiles()["a"]
    assert [row[0] for row in tile["seconds"]] == [3]
    assert (tile["from"], tile["to"]) == (3, 3)


@pytest.mark.parametrize("status", [Status.DECODE_ERROR, Status.SHED, Status.STALE])
def test_lost_frames_that_are_told_late_make_no_stream_begin_anew(status: Status) -> None:
    told = Told()
    for second in range(30):
        told.clock.advance(1)
        told.score("a", STRONG if second > 20 else face(), pts_s=1000 + second)
    told.score("a", pts_s=1027, status=status)
    tile = told.tiles()["a"]
    assert (tile["state"], tile["coverage"]) == ("suspicious", 1.0)
    assert [row[0] for row in tile["seconds"]] == list(range(1000, 1030))
    assert tile["people"]
    assert tile["pts"] >= 1027


def test_a_lost_frame_whose_time_leaps_takes_nothing_away_for_long() -> None:
    told = Told()
    for second in range(30):
        told.clock.advance(1)
        told.score("a", pts_s=1000 + second)
    told.score("a", pts_s=5000, status=Status.DECODE_ERROR)
    assert told.said("a") == ("not-looking", "damaged")
    told.clock.advance(1)
    told.score("a", pts_s=1030)
    assert told.said("a") == ("clean", "")
    told.score("a", pts_s=1031)
    assert [row[0] for row in told.tiles()["a"]["seconds"]] == [1030, 1031]


def test_where_all_frames_come_late_nobody_looks_whatever_was_before() -> None:
    told = Told(looked_s=10.0)
    told.score("a", pts_s=1000)
    for second in range(1, 20):
        told.clock.advance(1)
        told.score("a", pts_s=990 + second / 4, status=Status.STALE)
        assert told.said("a") == (("clean", "") if second <= 10 else ("not-looking", "stale"))
    told.score("a", pts_s=1001)
    assert told.said("a") == ("clean", "")


def test_two_producers_under_one_id_do_not_make_its_tile_flicker() -> None:
    told = Told()
    seen = set()
    for quarter in range(120):
        told.clock.advance(0.25)
        now_s = 1000 + quarter / 4
        told.score("a", pts_s=now_s - 3, status=Status.STALE) if quarter % 2 else told.score("a", pts_s=now_s)
        seen.add(told.said("a"))
    assert seen == {("clean", "")}
    assert told.tiles()["a"]["coverage"] == 1.0


@pytest.mark.parametrize("status", [Status.DECODE_ERROR, Status.SHED])
def test_a_lost_frame_that_is_told_late_was_not_looked_at(status: Status) -> None:
    told = Told()
    for second in [*range(20), *range(40, 60)]:
        told.clock.advance(1)
        told.score("a", pts_s=1000 + second / 10)
    for second in range(20, 40):
        told.score("a", pts_s=1000 + second / 10, status=status)
    for second in range(60, 100):
        told.clock.advance(1)
        told.score("a", pts_s=1000 + second / 10)
    assert told.tiles()["a"]["coverage"] == pytest.approx(0.8, abs=0.02)


def test_of_mutes_given_before_a_stream_began_anew_what_is_left_holds() -> None:
    """As its worker has it: numbers name other people then, and a mute lasts for the rest of its time."""
    told = Told()
    told.score("a", pts_s=1000)

    def mute(person: int | str | None, value: float | None = None) -> None:
        issued_ns, what = int(told.clock.now_s * 1e9), Command.ALERT_MUTE
        told.wall.take_command(
            CommandRecord(stream="a", command=what, person=person, issued_ns=issued_ns, by="ada", id="1", value=value)
        )

    mute(None, 3600.0)
    mute(3)
    mute("Grace")
    assert told.tiles()["a"]["muted"] == (
        "everybody for 60 min, by ada; 3 until unmuted, by ada; Grace until unmuted, by ada"
    )
    told.clock.advance(1800)
    told.score("a", pts_s=5)
    assert told.tiles()["a"]["muted"] == "everybody for 30 min, by ada; Grace until unmuted, by ada"
    told.clock.advance(10)
    mute(3)
    told.score("a", pts_s=15)
    assert "; 3 until unmuted" in told.tiles()["a"]["muted"], "given since"
    told.clock.advance(1791)
    assert "everybody" not in told.tiles()["a"]["muted"]


def test_muted_streams_say_so_until_it_is_over() -> None:
    told = Told()
    told.score("a")

    def command(what: Command, value: float | None = None) -> CommandRecord:
        issued_ns = int(told.clock.now_s * 1e9)
        return CommandRecord(stream="a", command=what, person=None, issued_ns=issued_ns, by="ada", id="1", value=value)

    told.wall.take_command(command(Command.ALERT_MUTE, 600.0))
    assert told.tiles()["a"]["muted"] == "everybody for 10 min, by ada"
    told.clock.advance(601)
    assert told.tiles()["a"]["muted"] == ""
    told.wall.take_command(command(Command.ALERT_MUTE))
    assert told.tiles()["a"]["muted"] == "everybody until unmuted, by ada"
    told.wall.take_command(command(Command.ALERT_UNMUTE))
    assert told.tiles()["a"]["muted"] == ""
