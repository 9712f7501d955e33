"""What operators do through the wall: to whom it is allowed, what comes of it, what is written down."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from wall_client import BEARER, JSON, Page, ask, dial
from wall_world import TOKEN, TOPICS, alert, publish, score, served, until

from stream.broker.contract import TopicPartition
from stream.broker.memory import MemoryBroker
from stream.messages import Command, CommandRecord, decode_enrolment
from stream.metrics.processes import WALL
from stream.wall.access import Operators
from stream.wall.audit import Audit
from stream.wall.server import WallServer
from stream.wall.settings import WallSettings


@pytest.fixture
def acting(tmp_path: Path) -> Iterator[tuple[WallServer, MemoryBroker, Path]]:
    """With an operator, and a file for what she does."""
    audit = tmp_path / "audit.jsonl"
    with served(operators=Operators({"ada": TOKEN}), audit=Audit(audit)) as (server, broker):
        publish(broker, score("a"), alert(stream="a"))
        until(lambda: server.wall.has("a") and server.wall.thumbnail("1"))
        yield server, broker, audit


def commands(broker: MemoryBroker) -> list[CommandRecord]:
    reader, partition = broker.reader(), TopicPartition(TOPICS.enrolments, 0)
    found = [decode_enrolment(r.value or b"") for r in reader.read(partition, None, reader.end_offset(partition))]
    return [record for record in found if isinstance(record, CommandRecord)]


class TestActions:
    FREEZE = {"act": "freeze", "stream": "a", "person": 3}  # noqa: RUF012

    def test_without_a_token_the_wall_only_shows(self, wall: tuple[WallServer, MemoryBroker]) -> None:
        status, _, body = ask(wall[0], "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)
        assert status == 403
        assert b"read-only" in body
        assert ask(wall[0], "/operator", **BEARER)[0] == 403
        assert commands(wall[1]) == []

    def test_a_forged_token_is_refused_counted_and_written_down(
        self, acting: tuple[WallServer, MemoryBroker, Path]
    ) -> None:
        server, broker, audit = acting
        for number in range(10):
            status, headers, _ = ask(
                server, "/actions", "POST", body=self.FREEZE, authorization=f"Bearer {number:032}", **JSON
            )
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
        status, headers, _ = ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)
        assert status == 429, "the right one, too: whoever guesses must not learn by it"
        assert int(headers["retry-after"]) > 0
        assert commands(broker) == []
        lines = [msgspec.json.decode(line) for line in audit.read_bytes().splitlines()]
        assert [line["outcome"] for line in lines] == ["refused: no token"] * 10
        assert {line["address"] for line in lines} == {"127.0.0.1"}

    def test_what_happens_is_counted_for_prometheus_without_a_stream_s_name(
        self, acting: tuple[WallServer, MemoryBroker, Path]
    ) -> None:
        server, broker, _ = acting
        assert ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)[0] == 200
        broker.disconnect()
        assert ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)[0] == 503
        for number in range(11):
            ask(server, "/operator", authorization=f"Bearer {number:032}")
        with Page(server) as page:
            page.event()
            status, headers, body = ask(server, "/metrics")
        broker.reconnect()
        assert (status, headers["cache-control"]) == (200, "no-store")
        told = {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }
        assert {name[0] for name in told if name[0].startswith("difffake_")} == set(WALL)
        assert told.keys() >= {("process_resident_memory_bytes",)}
        expected = {
            ("difffake_wall_records_total", "score"): 1,
            ("difffake_wall_records_total", "alert"): 1,
            ("difffake_wall_streams",): 1,
            ("difffake_wall_open_alerts",): 1,
            ("difffake_wall_pages",): 1,
            ("difffake_wall_actions_total", "sent"): 1,
            ("difffake_wall_actions_total", "failed"): 1,
            ("difffake_wall_logins_refused_total", "no_token"): 10,
            ("difffake_wall_logins_refused_total", "too_many"): 1,
        }
        assert {name: told[name] for name in expected} == expected

    def test_what_an_operator_does_reaches_the_workers_and_the_audit(
        self, acting: tuple[WallServer, MemoryBroker, Path]
    ) -> None:
        server, broker, audit = acting
        assert json.loads(ask(server, "/operator", **BEARER)[2]) == {"name": "ada"}
        status, _, body = ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)
        assert status == 200
        (command,) = commands(broker)
        assert (command.command, command.stream, command.person, command.by) == (Command.FREEZE, "a", 3, "ada (wall)")
        assert json.loads(body) == {"id": command.id}
        lines = [msgspec.json.decode(line) for line in audit.read_bytes().splitlines()]
        assert [(line["outcome"], line["who"], line["address"]) for line in lines] == [
            ("accepted", "ada", "127.0.0.1"),
            ("sent", "ada", "127.0.0.1"),
        ]
        assert lines[1]["action"] == {**self.FREEZE, "id": command.id}
        assert TOKEN not in audit.read_text()

    @pytest.mark.parametrize(
        ("action", "command", "fields"),
        [
            ({"act": "reset", "person": "Ada"}, Command.RESET, {"person": "Ada"}),
            ({"act": "unfreeze"}, Command.UNFREEZE, {"person": None}),
            ({"act": "gear-scrutinise", "person": 1}, Command.GEAR_SCRUTINISE, {"person": None}),
            ({"act": "mute", "seconds": 600}, Command.ALERT_MUTE, {"value": 600.0, "person": None}),
            ({"act": "mute", "evidence": "identity"}, Command.ALERT_MUTE, {"value": None, "evidence": "identity"}),
            ({"act": "unmute"}, Command.ALERT_UNMUTE, {}),
            ({"act": "budget", "per_day": 0.5}, Command.ALERT_BUDGET, {"value": 0.5}),
            ({"act": "budget", "per_day": None}, Command.ALERT_BUDGET, {"value": None}),
            ({"act": "acknowledge", "alert": "1"}, Command.ALERT_ACKNOWLEDGE, {"alert": "1", "evidence": "identity"}),
        ],
    )
    def test_every_action_is_the_command_of_that_name(
        self,
        acting: tuple[WallServer, MemoryBroker, Path],
        action: dict[str, Any],
        command: Command,
        fields: dict[str, Any],
    ) -> None:
        server, broker, _ = acting
        assert ask(server, "/actions", "POST", body={**action, "stream": "a"}, **BEARER, **JSON)[0] == 200
        (sent,) = commands(broker)
        assert sent.command is command
        assert {name: getattr(sent, name) for name in fields} == fields

    @pytest.mark.parametrize(
        ("status", "body", "headers"),
        [
            (400, b"", JSON),
            (400, b"{}", JSON),
            (400, b"[" * 4000, JSON),
            (400, b"\xff\xfe", JSON),
            (400, {"act": "forget", "stream": "a"}, JSON),
            (400, {"act": "freeze", "stream": ""}, JSON),
            (400, {"act": "freeze", "stream": "a", "person": -1}, JSON),
            (400, {"act": "freeze", "stream": "a", "topic": "x"}, JSON),
            (400, {"act": "mute", "stream": "a", "seconds": -5}, JSON),
            (400, {"act": "budget", "stream": "a", "per_day": 0}, JSON),
            (400, {"act": "acknowledge", "stream": "a", "alert": "none"}, JSON),
            (404, {"act": "freeze", "stream": "nobody"}, JSON),
            (413, b"x" * 5000, JSON),
            (415, {"act": "freeze", "stream": "a"}, {"content-type": "text/plain"}),
            (415, b"act=freeze", {"content-type": "application/x-www-form-urlencoded"}),
        ],
    )
    def test_what_is_no_action_is_refused(
        self, acting: tuple[WallServer, MemoryBroker, Path], status: int, body: Any, headers: dict[str, str]
    ) -> None:
        server, broker, _ = acting
        assert ask(server, "/actions", "POST", body=body, **BEARER, **headers)[0] == status
        assert commands(broker) == []

    def test_other_methods_and_tokens_in_addresses_do_nothing(
        self, acting: tuple[WallServer, MemoryBroker, Path]
    ) -> None:
        server, broker, _ = acting
        assert ask(server, "/actions", **BEARER)[0] == 405
        assert ask(server, f"/actions?token={TOKEN}", "POST", body=self.FREEZE, **JSON)[0] == 401
        assert commands(broker) == []

    def test_a_body_that_never_comes_is_not_waited_for(self) -> None:
        settings = WallSettings(request_s=3.0)  # long enough for a slow machine to send the head
        with served(settings=settings, operators=Operators({"ada": TOKEN})) as (server, _), dial(server) as slow:
            slow.sendall(
                f"POST /actions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
                "content-type: application/json\r\ncontent-length: 100\r\n\r\n{".encode()
            )
            assert slow.recv(100).startswith(b"HTTP/1.1 408")

    def test_a_body_that_breaks_off_is_no_error_of_ours(self, capsys: pytest.CaptureFixture[str]) -> None:
        with served(operators=Operators({"ada": TOKEN})) as (server, _):
            with dial(server) as leaving:
                leaving.sendall(
                    f"POST /actions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {TOKEN}\r\n"
                    "content-type: application/json\r\ncontent-length: 100\r\n\r\n{".encode()
                )
                time.sleep(0.5)
            assert ask(server, "/operator", **BEARER)[0] == 200
            time.sleep(0.5)
        assert "failed to answer" not in capsys.readouterr().out

    def test_an_action_that_cannot_be_sent_says_so(self, acting: tuple[WallServer, MemoryBroker, Path]) -> None:
        server, broker, audit = acting
        broker.disconnect()
        status, _, body = ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)
        broker.reconnect()
        assert status == 503
        assert json.loads(body)["hint"]
        assert b'"failed: ' in audit.read_bytes()

    def test_no_audit_no_action(self, acting: tuple[WallServer, MemoryBroker, Path]) -> None:
        server, broker, audit = acting
        audit.unlink()
        audit.mkdir()
        assert ask(server, "/actions", "POST", body=self.FREEZE, **BEARER, **JSON)[0] == 503
        assert commands(broker) == []
