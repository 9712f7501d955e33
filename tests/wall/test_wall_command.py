"""``difffake wall`` as a process, on a real Kafka."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner
from wall_world import TOKEN, make_topics, publish, score, until

from difffake.errors import DiffFakeError
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.cli import Invocation, app
from stream.topics import Topics

COMMAND = [sys.executable, "-m", "stream.cli", "wall"]


@pytest.mark.kafka
def test_it_serves_what_is_on_kafka_and_leaves_when_told(kafka_bootstrap: str, tmp_path: Path) -> None:
    prefix = f"wall-{uuid.uuid4().hex[:12]}"
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka_bootstrap))
    make_topics(broker, 2, Topics.under(prefix))
    audit = tmp_path / "audit.jsonl"
    where = ["--bootstrap-servers", kafka_bootstrap, "--http", "127.0.0.1:0", "--prefix", prefix]
    process = subprocess.Popen(
        [*COMMAND, *where, "--audit", str(audit)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DIFFFAKE_WALL_TOKEN": TOKEN},
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.match(r"wall: http://127\.0\.0\.1:(\d+)/ \(operators may act\)", line)
        assert found, line + (process.stderr.read() if process.poll() is not None else "")
        publish(broker, score("studio-1"), topics=Topics.under(prefix))

        @contextmanager
        def ask(method: str, path: str, body: bytes | None = None) -> Iterator[http.client.HTTPResponse]:
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
            headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
            with closing(connection):
                connection.request(method, path, body, headers)
                with connection.getresponse() as answer:
                    yield answer

        def tiles() -> bool:
            with ask("GET", "/events") as events:
                data = next(line for line in events if line.startswith(b"data: "))
            body = json.loads(data.removeprefix(b"data: "))
            assert body["wall"]["replay"].startswith(f"difffake replay --bootstrap-servers {kafka_bootstrap}")
            return [tile["state"] for tile in body["streams"]] == ["clean"]

        until(tiles)
        with ask("POST", "/actions", json.dumps({"act": "freeze", "stream": "studio-1"}).encode()) as answer:
            assert answer.status == 200
        assert b'"sent"' in audit.read_bytes()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
        broker.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--http", "nowhere"], "HOST:PORT"),
        (["--token-file", "no-such-file"], "no-such-file"),
        (["--looked", "0"], "looked_s"),
        (["--certificate", "only.pem"], "--certificate-key"),
    ],
)
def test_what_it_is_told_wrongly_is_named_before_anything_is_served(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(
        app, ["wall", "--bootstrap-servers", "127.0.0.1:1", *arguments], obj=Invocation(), env={"COLUMNS": "200"}
    )
    assert result.exit_code
    error = result.exception
    hint = error.hint if isinstance(error, DiffFakeError) else ""
    assert said in f"{result.output} {error} {hint}"
