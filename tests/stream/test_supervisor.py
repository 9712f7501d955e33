"""``difffake work --workers N``: who starts the workers, starts them again, and ends them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import write_tiny_bundle
from work_process import publish, running, scores, undisturbed, wait_for

import stream
from difffake.bundle import Bundle
from stream.broker.contract import TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.cli import main
from stream.probes import AddressError, next_address
from stream.supervisor import Supervisor, worker_command

pytestmark = pytest.mark.usefixtures("hangup_by_default")

#: A worker as its supervisor sees it: arguments are its line, a folder, its number, and what it does once it works.
WORKER = """
import os, pathlib, signal, sys, time
from stream.health import Health
from stream.lifeline import Lifeline
fd, folder, number, does = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
health = Health()
with Lifeline(fd, health) as line:
    def drain(*_):
        if "never drains" not in does:
            (folder / f"{number}.drained").touch()
            sys.exit(0)
    signal.signal(signal.SIGHUP, drain)
    signal.signal(signal.SIGTERM, drain)
    if "does not start" in does:
        line.hold()
        sys.exit(27)
    if "is killed at first" in does and not (folder / f"{number}.killed").exists():
        (folder / f"{number}.killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    health.running(partitions=1)
    line.hold()
    if "is done" in does:
        time.sleep(0.2)
        line.leave(is_done=True)
        sys.exit(5 if "wrongly" in does else 0)
    with (folder / f"{number}.pids").open("a") as file:
        print(os.getpid(), file=file, flush=True)
    while "ends" not in does:
        time.sleep(0.05)
    time.sleep(0.2)  # so that it is heard
    sys.exit(1)
"""


class Workers:
    """What became of workers that write into a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def command(self, *does: str) -> Callable[[int, int], list[str]]:
        """Of a worker for each of ``does``."""
        return lambda number, fd: [sys.executable, "-c", WORKER, str(fd), str(self.folder), str(number), does[number]]

    def supervisor(self, *does: str, drain_s: float = 20.0, silence_s: float = 60.0) -> Supervisor:
        """Of those."""
        return Supervisor(len(does), self.command(*does), drain_s=drain_s, silence_s=silence_s)

    def pids(self, number: int) -> list[int]:
        """Of one worker, in the order in which it was started."""
        file = self.folder / f"{number}.pids"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def drained(self) -> list[str]:
        """Who drained."""
        return sorted(file.stem for file in self.folder.glob("*.drained"))

    def wait(self, number: int, count: int) -> int:
        """Until it was started so many times; the last process."""
        until = time.monotonic() + 60
        while len(self.pids(number)) < count:
            assert time.monotonic() < until
            time.sleep(0.02)
        return self.pids(number)[-1]


@pytest.fixture
def workers(tmp_path: Path) -> Workers:
    return Workers(tmp_path)


def meanwhile(act: Callable[[], None]) -> threading.Thread:
    """Somebody else, who asks us to stop in the end, whatever happens."""

    def run() -> None:
        try:
            act()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_that_are_done_end_it(workers: Workers) -> None:
    assert workers.supervisor("is done", "is done").run() == 0
    assert workers.supervisor("is done", "is done wrongly").run() == 5
    assert workers.drained() == []


def test_told_to_stop_all_drain(workers: Workers) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)]
    other = meanwhile(lambda: [workers.wait(number, 1) for number in (0, 1)] and None)
    assert workers.supervisor("works", "works").run() == 0
    other.join()
    assert workers.drained() == ["0", "1"]
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_who_was_told_by_somebody_else_too_is_not_told_twice(workers: Workers) -> None:
    """systemd tells every process of a service."""

    def act() -> None:
        pids = [workers.wait(number, 1) for number in (0, 1)]
        os.kill(os.getpid(), signal.SIGTERM)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)

    other = threading.Thread(target=act)
    other.start()
    assert workers.supervisor("works", "works").run() == 0
    other.join()
    assert [len(workers.pids(number)) for number in (0, 1)] == [1, 1], "nobody was started again"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_ends_is_started_again(workers: Workers, signum: signal.Signals) -> None:
    def act() -> None:
        workers.wait(0, 1)
        time.sleep(1.5)  # it has said that it works
        os.kill(workers.wait(1, 1), signum)
        workers.wait(1, 2)

    other = meanwhile(act)
    assert workers.supervisor("works", "works").run() == 0
    other.join()
    assert len(workers.pids(0)) == 1, "the other one was left alone"
    assert workers.drained() == ["0", "1"]


def test_one_that_ends_again_and_again_is_waited_for_ever_longer(workers: Workers) -> None:
    began_s: list[float] = []

    def act() -> None:
        for count in (1, 2, 3):
            workers.wait(1, count)
            began_s.append(time.monotonic())

    other = meanwhile(act)
    assert workers.supervisor("works", "ends").run() == 0
    other.join()
    first, second, third = began_s
    assert second - first > 1
    assert third - second > 2


def test_one_that_hangs_is_killed_and_started_again(workers: Workers) -> None:
    def act() -> None:
        pid = workers.wait(0, 1)
        time.sleep(1.5)
        os.kill(pid, signal.SIGSTOP)
        workers.wait(0, 2)
        assert not is_alive(pid)

    other = meanwhile(act)
    assert workers.supervisor("works", silence_s=8.0).run() == 0
    other.join()


def test_what_is_wrong_from_the_start_ends_all_with_its_code(workers: Workers) -> None:
    assert workers.supervisor("does not start", "does not start").run() == 27


def test_one_that_is_killed_while_it_starts_is_started_again(workers: Workers) -> None:
    other = meanwhile(lambda: workers.wait(0, 1) and None)
    assert workers.supervisor("is killed at first").run() == 0
    other.join()


def test_one_that_does_not_drain_is_killed(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.supervisor._GRACE_S", 0.2)
    other = meanwhile(lambda: [workers.wait(number, 1) for number in (0, 1)] and None)
    assert workers.supervisor("works", "never drains", drain_s=1.0).run() == 1
    other.join()
    assert workers.drained() == ["0"]
    assert not is_alive(workers.pids(1)[0])


def test_a_second_signal_kills_at_once_and_a_lost_terminal_is_none(workers: Workers) -> None:
    def act() -> None:
        workers.wait(0, 1)
        for signum in (signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGHUP):
            os.kill(os.getpid(), signum)
            time.sleep(0.3)
            assert is_alive(workers.pids(0)[0])

    other = meanwhile(act)
    assert workers.supervisor("never drains", drain_s=600.0).run() == 128 + signal.SIGTERM
    other.join()
    assert not is_alive(workers.pids(0)[0])


def test_workers_of_a_supervisor_that_was_killed_drain(workers: Workers) -> None:
    code = (
        "import signal, sys\nfrom stream.supervisor import Supervisor\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"  # as under nohup: lines are heeded nevertheless
        f"command = lambda number, fd: [sys.executable, '-c', {WORKER!r}, str(fd), {str(workers.folder)!r}, "
        "str(number), 'works']\n"
        "Supervisor(2, command, drain_s=20.0).run()"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as supervisor:
        pids = [workers.wait(number, 1) for number in (0, 1)]
        supervisor.kill()
    until = time.monotonic() + 60
    while workers.drained() != ["0", "1"]:
        assert time.monotonic() < until
        time.sleep(0.02)
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.02)  # nobody may be left to bury them
    assert [len(workers.pids(number)) for number in (0, 1)] == [1, 1]


def test_a_worker_is_read_from_where_we_were(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stream").mkdir()
    (tmp_path / "stream" / "entry.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "stream" / "__init__.py").touch()
    done = subprocess.run(worker_command(["--version"]), capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.startswith("difffake "), done.stderr
    monkeypatch.chdir(Path(stream.__file__).parents[1])
    assert worker_command(["work"])[1:] == ["-m", "stream.entry", "work"]


def test_each_worker_has_an_address_of_its_own() -> None:
    assert next_address("0.0.0.0:9464", 0) == "0.0.0.0:9464"
    assert next_address("127.0.0.1:9464", 3) == "127.0.0.1:9467"
    assert next_address("[::1]:80", 2) == "[::1]:82"
    assert next_address("localhost:0", 2) == "localhost:0"
    with pytest.raises(AddressError, match="65536"):
        next_address("localhost:65535", 1)


def test_what_each_worker_is_told(monkeypatch: pytest.MonkeyPatch, tiny_bundle: Bundle) -> None:
    commands: list[list[str]] = []

    class Seen:
        def __init__(self, count: int, command: Callable[[int, int], list[str]], **_more: object) -> None:
            commands.extend(command(number, 7) for number in range(count))

        def run(self) -> int:
            return 9

    monkeypatch.setattr("stream.commands_work.Supervisor", Seen)
    monkeypatch.setattr("stream.commands_work.usable_cores", lambda: 7)
    arguments = ["work", "--bundle", str(tiny_bundle.path), "--bootstrap-servers", "memory:1"]

    def told(*more: str) -> list[list[str]]:
        commands.clear()
        with pytest.raises(SystemExit) as left:
            main([*arguments, *more])
        assert left.value.code == 9
        given = [*arguments, *more]
        return [command[command.index(given[0]) + len(given) :] for command in commands]

    assert told("--workers", "3") == [
        ["--workers", "1", "--line", f"{number}:7", "--threads", "2"] for number in range(3)
    ]
    assert len(told("--workers", "0")) == 7
    monkeypatch.setenv("DIFFFAKE_HTTP", "localhost:100")
    monkeypatch.setenv("DIFFFAKE_WORKERS", "8")
    first, *_, last = told("--instance-id", "me", "--threads", "2")
    own = ["--workers", "1", "--line", "0:7", "--threads", "2", "--http", "localhost:100", "--instance-id", "me-0"]
    assert first == own
    assert last[3::2] == ["7:7", "2", "localhost:107", "me-7"]


@pytest.mark.kafka
@pytest.mark.slow
def test_on_kafka_nothing_is_lost_whoever_is_killed(
    kafka_bootstrap: str, clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group, bundle = f"g{uuid.uuid4().hex[:8]}", write_tiny_bundle(tmp_path / "tiny", identity=True).path
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka_bootstrap))
    broker.ensure_topics([TopicSpec(f"{group}.in", 2)])
    options = ["--workers", "2", "--session-timeout", "6"]

    def pids() -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if group.encode() in words and b"--line" in words:
                    found.append(int(process.name))
        return found

    with running(kafka_bootstrap, group, bundle, tmp_path / "1.log", *options, ports=2) as supervisor:
        wait_for(supervisor, lambda: supervisor.get("/readyz")[0] == 200)
        publish(broker, f"{group}.in", clips)
        wait_for(supervisor, lambda: sum(supervisor.figures("difffake_frames_total")) > 5)
        first = pids()
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        wait_for(supervisor, lambda: len(set(pids()) - set(first)) == 1)
        wait_for(supervisor, lambda: "is started again" in supervisor.text())
        supervisor.process.kill()
        until = time.monotonic() + 60
        while pids():
            assert time.monotonic() < until, "workers go on alone"
            time.sleep(0.1)
    with running(
        kafka_bootstrap, group, bundle, tmp_path / "2.log", *options, "--idle-exit", "12", ports=2
    ) as supervisor:
        assert supervisor.process.wait(180) == 0, supervisor.text()[-3000:]
    found = scores(broker, group)
    broker.close()

    assert undisturbed(group, clips, bundle, monkeypatch) == found
