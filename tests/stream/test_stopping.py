"""Signals to ``difffake work``, and its HTTP door from the first moment to the last."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from apache_kafka import free_ports

import stream.entry
import stream.stopping
from difffake.bundle import Bundle
from stream.broker.contract import TopicSpec
from stream.broker.memory import MemoryBroker
from stream.cli import main
from stream.kafka_options import KafkaOptions
from stream.stopping import HeldInterrupt, StopSignals

pytestmark = pytest.mark.usefixtures("hangup_by_default")


def get(port: int, path: str) -> int:
    """Status; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, http.client.HTTPException):
        return 0


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> MemoryBroker:
    one = MemoryBroker()
    one.ensure_topics([TopicSpec("video.in", 1)])
    monkeypatch.setattr(KafkaOptions, "broker", lambda _self, **_more: one)
    monkeypatch.setattr(one, "close", lambda: None)
    return one


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_a_worker_in_order(
    signum: signal.Signals, tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_ports(1)[0]
    monkeypatch.setenv("DIFFFAKE_HTTP", f"127.0.0.1:{port}")
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    seen: list[int] = []

    def supervise() -> None:
        until = time.monotonic() + 60
        while time.monotonic() < until and get(port, "/readyz") != 200:
            time.sleep(0.02)
        seen.append(get(port, "/metrics"))
        os.kill(os.getpid(), signum)

    supervisor = threading.Thread(target=supervise)
    supervisor.start()
    with pytest.raises(SystemExit) as left:
        main(["work", "--threads", "1", "--bundle", str(tiny_bundle.path), "--bootstrap-servers", "memory:1"])
    supervisor.join(60)
    assert left.value.code == 0
    assert seen == [200]
    assert get(port, "/livez") == 0, "the door is closed"
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
    assert not [t for t in threading.enumerate() if t.name == "stop-signals"], "no watchdog is left behind"
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.usefixtures("broker")
@pytest.mark.parametrize("threads", [4, 5])
def test_more_threads_than_one_interpreter_can_use_are_told(
    threads: int, tiny_bundle: Bundle, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = str(tiny_bundle.path)
    command = ["work", "--threads", str(threads), "--bundle", bundle, "--idle-exit", "0.1"]
    with pytest.raises(SystemExit) as left:
        main([*command, "--bootstrap-servers", "memory:1"])
    assert left.value.code == 0
    said = "".join(capfd.readouterr())
    assert "working: video.in" in said
    assert ("many threads in one process" in said) == (threads > 4)


def test_while_it_looks_for_brokers_it_is_alive_not_started_and_can_be_stopped(tmp_path: Path) -> None:
    port, nobody = free_ports(2)
    command = [sys.executable, "-m", "stream.cli", "work", "--http", f"127.0.0.1:{port}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--bootstrap-servers", f"127.0.0.1:{nobody}"], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while get(port, "/startupz") != 503:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        assert (get(port, "/livez"), get(port, "/readyz")) == (200, 503)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, (tmp_path / "log").read_text()
    finally:
        process.kill()
        process.wait(30)


class Draining:
    """As a worker is to the signals."""

    class settings:  # noqa: N801
        drain_timeout_s = 0.05

    has_left = False

    def __init__(self) -> None:
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1


@pytest.fixture
def exits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Codes with which the process would have ended."""
    codes: list[int] = []
    monkeypatch.setattr(stream.stopping.os, "_exit", codes.append)
    monkeypatch.setattr(stream.stopping, "_GRACE_S", 0.05)
    return codes


@pytest.mark.parametrize(("has_left", "code"), [(True, 0), (False, 1)])
def test_a_drain_that_never_ends_is_ended(exits: list[int], has_left: bool, code: int) -> None:
    worker = Draining()
    worker.has_left = has_left
    with StopSignals() as signals:
        signals.drain(worker)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        until = time.monotonic() + 30
        while not exits and time.monotonic() < until:
            time.sleep(0.01)
    assert exits == [code]
    assert worker.stops == 1


def test_a_second_signal_ends_it_at_once(exits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Draining.settings, "drain_timeout_s", 60.0)
    worker = Draining()
    with StopSignals() as signals:
        signals.drain(worker)  # type: ignore[arg-type]
        signal.raise_signal(signal.SIGTERM)
        assert not exits
        signal.raise_signal(signal.SIGINT)
        assert exits == [130]
    assert worker.stops == 1


def test_a_terminal_that_is_closed_drains_however_often_it_is_told(
    exits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a shell, and by the kernel when that has gone; by systemd right behind SIGTERM."""
    monkeypatch.setattr(Draining.settings, "drain_timeout_s", 60.0)
    worker = Draining()
    with StopSignals() as signals:
        signals.drain(worker)  # type: ignore[arg-type]
        for signum in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            signal.raise_signal(signum)
            assert worker.stops == 1
        time.sleep(0.3)  # the watchdog's patience with a second signal
        assert not exits
        signal.raise_signal(signal.SIGTERM)
        assert exits == [143]


def test_a_worker_under_nohup_does_not_hear_that_its_terminal_was_closed(exits: list[int]) -> None:
    before, worker = signal.signal(signal.SIGHUP, signal.SIG_IGN), Draining()
    try:
        with StopSignals() as signals:
            signals.drain(worker)  # type: ignore[arg-type]
            signal.raise_signal(signal.SIGHUP)
            assert (worker.stops, exits) == (0, [])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_before_there_is_a_worker_a_signal_ends_the_program() -> None:
    for signum, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)):
        with StopSignals(), pytest.raises(SystemExit) as left:
            signal.raise_signal(signum)
        assert left.value.code == code


def test_a_library_that_stands_still_at_the_start_holds_nobody_up() -> None:
    """No handler of Python's runs while the main thread is in one: a worker once ignored SIGTERM so."""
    code = (
        "import ctypes, threading, stream.stopping\n"
        "stream.stopping._STARTING_S = stream.stopping._GRACE_S = 0.05\n"
        "libc = ctypes.CDLL(None)\n"
        "lock = ctypes.create_string_buffer(256)\n"
        "with stream.stopping.StopSignals():\n"
        "    threading.Timer(0.5, print, ['stands'], {'flush': True}).start()\n"  # when it does
        "    while True: libc.pthread_mutex_lock(lock)\n"  # twice: it waits for itself
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"stands\n"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 1
        finally:
            process.kill()


class TestHeldInterrupt:
    def test_an_interrupt_waits_until_it_is_asked_for(self) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with HeldInterrupt() as interrupt:
                interrupt.check()
                signal.raise_signal(signal.SIGINT)
                with pytest.raises(KeyboardInterrupt):
                    interrupt.check()
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        finally:
            signal.signal(signal.SIGINT, before)

    def test_the_second_one_ends_the_process(self) -> None:
        code = (
            "import signal\nfrom stream.stopping import HeldInterrupt\n"
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "with HeldInterrupt():\n    for _ in range(2): signal.raise_signal(signal.SIGINT)\n"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 130

    def test_who_ignores_interrupts_goes_on_ignoring_them(self) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with HeldInterrupt() as interrupt:
                signal.raise_signal(signal.SIGINT)
                interrupt.check()
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        finally:
            signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("pid", [1, 4321])
def test_the_first_process_of_a_container_ends_at_sigterm_whatever_it_does(
    pid: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no default for the signal: it would be ignored until the supervisor kills."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr(os, "getpid", lambda: pid)
    monkeypatch.setattr("stream.cli.main", lambda: signal.raise_signal(signal.SIGTERM))
    try:
        if pid == 1:
            with pytest.raises(SystemExit) as left:
                stream.entry.main()
            assert left.value.code == 128 + signal.SIGTERM
        else:  # others have a default, or whoever called them has set one
            stream.entry.main()
    finally:
        signal.signal(signal.SIGTERM, before)
