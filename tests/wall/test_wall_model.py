"""Revisions: a page is told what it lacks, and memory is bounded whatever comes."""

from __future__ import annotations

import msgspec
import pytest
from wall_world import JPEG, Told, evidence, face, score

from difffake.results import Level
from stream.broker.contract import TopicPartition
from stream.messages import AlertState, Status
from stream.wall.distinct import DistinctCount
from stream.wall.looking import Place


def test_a_page_is_told_only_what_changed_since_its_revision() -> None:
    told = Told()
    told.score("a")
    told.score("b")
    first = told.wall.changes(None)
    assert first.whole
    assert {tile["id"] for tile in first.body["streams"]} == {"a", "b"}
    told.clock.advance(1)
    told.score("b")
    then = told.wall.changes(first.revision)
    assert not then.whole
    assert [tile["id"] for tile in then.body["streams"]] == ["b"]
    assert len(then.body["streams"][0]["seconds"]) == 1, "of its seconds, only the new one"
    assert told.wall.changes(then.revision).body["streams"] == []


def test_time_alone_changes_a_tile_and_pages_hear_of_it() -> None:
    told = Told()
    told.score("a")
    seen = told.wall.changes(None).revision
    told.wall.turn()
    assert told.wall.revision == seen, "nothing changed: no page is woken"
    told.clock.advance(20)
    told.wall.turn()
    assert [tile["state"] for tile in told.wall.changes(seen).body["streams"]] == ["not-looking"]


def test_pages_that_missed_something_hear_what_went() -> None:
    told = Told(max_streams=2)
    told.score("a")
    told.score("b")
    seen = told.wall.changes(None)
    keys = {tile["id"]: tile["key"] for tile in seen.body["streams"]}
    told.score("c", face(artifact=evidence(0.001, Level.STRONG)))
    change = told.wall.changes(seen.revision).body
    assert [tile["id"] for tile in change["streams"]] == ["c"]
    assert len(change["gone"]) == 1
    assert set(change["gone"]) < set(keys.values())
    for number in range(10_000):
        told.score(f"s{number}", face(artifact=evidence(0.001, Level.STRONG)))
        told.wall.turn()
    assert len(told.tiles()) == 2


def test_calm_streams_wait_for_a_silent_one_and_suspicious_ones_do_not() -> None:
    told = Told(max_streams=2, forget_s=60)
    told.score("a")
    told.score("b")
    told.score("c")
    assert set(told.tiles()) == {"a", "b"}, "tiles do not come and go while all are alive"
    told.clock.advance(5)
    told.score("a")
    told.score("x", face(identity=evidence(0.001, Level.STRONG)))
    assert set(told.tiles()) == {"a", "x"}
    for _ in range(70):
        told.clock.advance(1)
        told.score("x", face(identity=evidence(0.001, Level.STRONG)))
    told.score("c")
    assert set(told.tiles()) == {"c", "x"}


def test_names_made_up_for_garbage_push_no_stream_out_and_keep_none_out() -> None:
    told = Told(max_streams=4, forget_s=60)
    told.score("a")
    told.score("shed", status=Status.SHED)
    for number in range(1_000):
        told.clock.advance(0.01)
        told.score(f"noise-{number}", status=Status.DECODE_ERROR, reason="dead letter: CorruptInputError")
        told.score("a")
        told.score("shed", status=Status.SHED)
    assert set(told.tiles()) == {"a", "shed", "noise-0", "noise-1"}
    assert told.said("noise-0") == ("not-looking", "damaged")
    assert "dead letter: CorruptInputError" in told.tiles()["noise-0"]["reason"]
    told.score("b")
    told.score("c")
    told.score("d")
    assert set(told.tiles()) == {"a", "shed", "b", "c"}


def test_a_hundred_thousand_streams_are_counted_and_few_are_kept() -> None:
    told = Told(max_streams=16)
    template, written_ms = score("x", told.clock.now_s), int(told.clock.now_s * 1000)
    place = Place(TopicPartition("scores", 0), 0, template.source)
    for number in range(100_000):
        told.wall.take_score(msgspec.structs.replace(template, stream=f"stream-{number}"), place, written_ms)
    body = told.wall.changes(None).body
    assert len(body["streams"]) == 16
    assert body["wall"]["heard"] == pytest.approx(100_000, rel=0.02)


def test_open_alerts_stay_and_closed_ones_make_room() -> None:
    told = Told(max_alerts=3)
    for number in range(3):
        told.alert(number, stream=f"s{number}")
    told.alert(1, AlertState.CLOSED, stream="s1")
    told.alert(3, stream="s3")
    body = told.wall.changes(None).body
    assert [a["id"] for a in body["alerts"]] == ["0", "2", "3"]
    assert body["wall"]["alerts_left_out"] == 0
    told.alert(4, stream="s4")
    body = told.wall.changes(None).body
    assert [a["id"] for a in body["alerts"]] == ["2", "3", "4"]
    assert body["wall"]["alerts_left_out"] == 1, "an open one that is not shown is told"


def test_a_stream_whose_open_alert_is_not_listed_looks_like_one_with_an_alert() -> None:
    """It looked clean, for ten seconds of every ten: until its alert was told of again and another was left out."""
    told = Told(max_alerts=3)
    for number in range(5):
        told.score(stream=f"s{number}")
        told.alert(number, stream=f"s{number}")
    for _ in range(2):  # every alert is told of again and again
        for number in range(5):
            told.alert(number, AlertState.UPDATED, stream=f"s{number}")
            body = told.wall.changes(None).body
            assert {tile["state"] for tile in body["streams"]} == {"alert"}
            assert [tile["alerts"] for tile in body["streams"]] == [1] * 5
            assert [a["id"] for a in body["alerts"]] == ["2", "3", "4"], "the list stands still"
            assert body["wall"]["alerts_left_out"] == 2
            assert told.wall.figures().open_alerts == 5
    told.alert(0, AlertState.CLOSED, stream="s0")
    told.alert(3, AlertState.CLOSED, stream="s3")
    body = told.wall.changes(None).body
    assert {tile["id"]: tile["alerts"] for tile in body["streams"]} == {"s0": 0, "s1": 1, "s2": 1, "s3": 0, "s4": 1}
    assert body["wall"]["alerts_left_out"] == 1
    told.alert(1, AlertState.UPDATED, stream="s1")
    assert told.wall.changes(None).body["wall"]["alerts_left_out"] == 0, "there is room for it again"


def test_closed_alerts_go_after_a_while_and_pages_hear_of_it() -> None:
    told = Told(closed_s=100)
    told.alert(1, AlertState.CLOSED)
    seen = told.wall.changes(None)
    assert [a["open"] for a in seen.body["alerts"]] == [False]
    told.clock.advance(101)
    told.wall.turn()
    assert told.wall.changes(seen.revision).body["gone_alerts"] == ["1"]


def test_an_alert_knows_where_the_score_of_its_first_frame_lies() -> None:
    told = Told()
    told.score("a", offset=7)
    told.score("a", offset=8)
    told.alert(offset=8)
    told.wall.turn()
    (found,) = told.wall.changes(None).body["alerts"]
    assert found["replay"] == "difffake.scores:0:1"
    assert found["thumbnail"] is True
    assert told.wall.thumbnail("1") == JPEG


def test_a_thumbnail_that_is_no_jpeg_is_not_served() -> None:
    told = Told()
    told.alert(thumbnail=b"<svg onload=alert(1)>")
    assert told.wall.thumbnail("1") == b""
    assert told.wall.changes(None).body["alerts"][0]["thumbnail"] is False


def test_a_later_record_without_a_picture_keeps_the_one_before() -> None:
    told = Told()
    told.alert()
    told.alert(state=AlertState.UPDATED, thumbnail=None, acknowledged_by="ada")
    (found,) = told.wall.changes(None).body["alerts"]
    assert found["thumbnail"]
    assert found["acknowledged"] == "ada"


def test_names_for_people_are_printable_and_those_that_come_back_are_not_touched() -> None:
    told = Told()
    name = "a\u202eb\x1b[31m<b>"
    told.score(name)
    tile = told.tiles()[name]
    assert tile["name"] == "a\ufffdb\ufffd[31m<b>"
    assert tile["id"] == name


@pytest.mark.parametrize("names", [0, 1, 1000, 50_000])
def test_distinct_names_are_counted_once(names: int) -> None:
    count = DistinctCount()
    for _ in range(2):
        for number in range(names):
            count.add(f"stream-{number}")
    assert count.estimate == pytest.approx(names, rel=0.01)
