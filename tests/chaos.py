"""Kill workers at random and count what a reader with ``read_committed`` sees: every frame once, with the same scores.

    python tests/chaos.py CLIP... --kills 50       # or folders of clips

Starts a real Apache Kafka (needs Java 17 and Maven), publishes streams as segments, single pictures and access units,
scores them once undisturbed, and once with three workers that are killed (SIGKILL), stopped (SIGTERM) and started at
random moments, and with a restart of the broker half-way; ``--broker-kills`` also kills the broker. With ``--cluster``
that is one of three brokers at a time, of which the others go on. With ``--supervised`` the three workers are those of
one ``difffake work --workers 3``, and whoever supervises them may be killed, too. Prints takeover times and last
``kills=50 frames=N lost=0 doubled=0 max_score_diff=...``; ends with 1 if
anything was lost, doubled, buried or differs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apache_kafka import ApacheKafka, ApacheKafkaCluster

from difffake.folder import MEDIA_SUFFIXES
from stream.broker.contract import Broker, Reader, TopicPartition, TopicSpec
from stream.broker.errors import BrokerError
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.messages import PartitionRecord, ScoreRecord, StateKey, decode
from stream.publish import Form, Publisher, PublishSettings

FORMS = (Form.SEGMENTS, Form.FRAMES, Form.UNITS)
TOPIC, PARTITIONS = "video.in", 6
PICTURES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"})
#: What makes a score record unique: its source.
Key = tuple[str, int, int, int]


@dataclass
class Fleet:
    """Worker processes of one group."""

    bootstrap: str
    prefix: str
    options: list[str]
    folder: Path
    is_supervised: bool = False
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: int = 0

    def start(self) -> None:
        """One more worker, or supervisor of three."""
        self.started += 1
        command = [sys.executable, "-m", "stream.cli", "work", "--bootstrap-servers", self.bootstrap]
        command += ["--group", self.prefix, "--prefix", self.prefix, "--topic", TOPIC, *self.options]
        command += ["--workers", "3"] if self.is_supervised else []
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        with (self.folder / f"{self.prefix}-{self.started}.log").open("wb") as log:
            self.processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))

    def reap(self) -> list[int]:
        """Exit codes of workers that ended by themselves."""
        ended = [p for p in self.processes if p.poll() is not None]
        self.processes = [p for p in self.processes if p.poll() is None]
        return [int(p.returncode) for p in ended]

    @property
    def wanted(self) -> int:
        """How many processes are ours to start."""
        return 1 if self.is_supervised else 3

    def end(self, rng: random.Random, *, hard: bool) -> None:
        """Kill or stop one at random, of those that others started for us, too."""
        signum, victims = signal.SIGKILL if hard else signal.SIGTERM, [*self.processes, *self._others()]
        victim = rng.choice(victims)
        if isinstance(victim, int):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signum)
            return
        victim.send_signal(signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(30)
        self.reap()

    def _others(self) -> list[int]:
        """Workers that our supervisors started."""
        found: list[int] = []
        for one in self.processes:
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{one.pid}/task/{one.pid}/children").read_text().split())
        return found

    def close(self) -> None:
        """Stop all."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
        self.processes = []


def clips_of(paths: list[Path]) -> list[Path]:
    """Files as they are named, and the videos in folders.

    Raises:
        ValueError: there is no such file, or no video in a folder.
    """
    clips: list[Path] = []
    for path in paths:
        found = [path]
        if path.is_dir():
            videos = MEDIA_SUFFIXES - PICTURES
            found = sorted(f for f in path.iterdir() if f.is_file() and f.suffix.lower() in videos)
        if not found or not found[0].exists():
            what = "no video in this folder" if path.is_dir() else "no such file"
            raise ValueError(f"{path}: {what}; `python scripts/fetch_clips.py FOLDER` fetches some")
        clips += found
    return clips


def publish(broker: Broker, clips: list[Path], streams: int, loops: int, forms: tuple[Form, ...] = FORMS) -> int:
    """Publish every stream in its form; returns the number of records."""
    broker.ensure_topics([TopicSpec(TOPIC, PARTITIONS)])
    records = 0
    for form in forms:
        ours = [i for i in range(streams) if forms[i % len(forms)] is form]
        sources = {f"{form.value}-{i:02d}": [clips[i % len(clips)]] for i in ours}
        if not sources:
            continue
        with Publisher(broker, TOPIC, PublishSettings(form=form, loops=loops, fps=5.0)) as publisher:
            records += sum(1 for _ in publisher.publish_many(sources))
    return records


def seen(broker: Broker, prefix: str) -> tuple[dict[Key, ScoreRecord], int, int]:
    """Scores by frame, how many frames came twice, and how many dead letters there are."""
    reader = broker.reader()
    scores: dict[Key, ScoreRecord] = {}
    doubled = buried = 0
    for p in range(broker.partitions(f"{prefix}.scores")):
        partition = TopicPartition(f"{prefix}.scores", p)
        for record in reader.read(partition, None, reader.end_offset(partition)):
            score = decode(record.value or b"", ScoreRecord)
            key = (score.source.topic, score.source.partition, score.source.offset, score.source.index)
            doubled += key in scores
            scores[key] = score
    for p in range(broker.partitions(f"{prefix}.deadletters")):
        partition = TopicPartition(f"{prefix}.deadletters", p)
        buried += sum(1 for _ in reader.read(partition, None, reader.end_offset(partition)))
    reader.close()
    return scores, doubled, buried


def difference(a: ScoreRecord, b: ScoreRecord) -> float:
    """Largest difference of any figure; infinite where anything else differs."""
    if (a.stream, a.pts_ns, a.status, len(a.faces)) != (b.stream, b.pts_ns, b.status, len(b.faces)):
        return float("inf")
    worst = 0.0
    for one, other in zip(a.faces, b.faces, strict=True):
        if (one.person, one.track, one.evidence.keys()) != (other.person, other.track, other.evidence.keys()):
            return float("inf")
        for name, evidence in one.evidence.items():
            there = other.evidence[name]
            worst = max(worst, abs(evidence.score - there.score), abs(evidence.p_value - there.p_value))
            if (evidence.accumulated is None) != (there.accumulated is None):
                return float("inf")
            worst = max(worst, abs((evidence.accumulated or 0.0) - (there.accumulated or 0.0)))
    return worst


class Progress:
    """How far a group is with the input, by what its state topic says."""

    def __init__(self, broker: Broker, prefix: str) -> None:
        self._broker, self._topic = broker, f"{prefix}.state"
        self._read: dict[TopicPartition, int] = {}
        self._next: dict[TopicPartition, int] = {}

    def is_done(self) -> bool:
        """Whether everything that was published has been worked on, and that is committed."""
        reader = self._broker.reader()
        try:
            for p in range(self._broker.partitions(self._topic)):
                self._take_in(reader, TopicPartition(self._topic, p))
            inputs = [TopicPartition(TOPIC, p) for p in range(self._broker.partitions(TOPIC))]
            return all(self._next.get(source, 0) == reader.end_offset(source) for source in inputs)
        finally:
            reader.close()

    def _take_in(self, reader: Reader, source: TopicPartition) -> None:
        end = reader.end_offset(source)
        for record in reader.read(source, self._read.get(source), end):
            if StateKey.parse(record.key).stream is None and record.value is not None:
                state = decode(record.value, PartitionRecord)
                self._next[TopicPartition(state.topic, state.partition)] = state.next_offset
        self._read[source] = end


def wait_until_done(broker: Broker, fleet: Fleet, timeout_s: float) -> float:
    """Wait until all input is done; returns the seconds it took."""
    began, progress = time.monotonic(), Progress(broker, fleet.prefix)
    while time.monotonic() - began < timeout_s:
        time.sleep(2.0)
        if fleet.reap():
            fleet.start()
        try:
            if progress.is_done():
                return time.monotonic() - began
        except BrokerError as error:
            print(f"waiting: {error}", file=sys.stderr)
    raise SystemExit(f"{fleet.prefix}: not done after {timeout_s:.0f} s; see --keep for the workers' logs")


def torment(
    kafka: ApacheKafka | ApacheKafkaCluster,
    fleet: Fleet,
    kills: int,
    rng: random.Random,
    pause_s: float,
    broker_kills: int = 0,
    away_s: float = 0.0,
) -> int:
    """Kill workers; every fifth time one is stopped in order instead, half-way the broker is restarted, and behind so
    many kills it is killed, too, and away for so long."""
    hard, broker_dies = 0, set(rng.sample(range(1, kills + 1), min(broker_kills, kills)))
    while hard < kills:
        time.sleep(rng.uniform(0.2, 2 * pause_s))
        fleet.reap()
        if fleet.is_supervised and not fleet.processes:
            fleet.start()
            continue  # it gets time to start workers
        while len(fleet.processes) < fleet.wanted:
            fleet.start()
        if rng.random() < 0.2:
            fleet.end(rng, hard=False)
            continue
        fleet.end(rng, hard=True)
        hard += 1
        print(f"kill {hard} of {kills}", file=sys.stderr, flush=True)
        if hard in broker_dies:
            time.sleep(rng.uniform(0.0, pause_s))  # at any point of a commit
            kafka.kill()
            time.sleep(away_s)
            kafka.start()
            print("broker killed", file=sys.stderr, flush=True)
        if hard == kills // 2:
            kafka.restart()
            print("broker restarted", file=sys.stderr, flush=True)
    while len(fleet.processes) < fleet.wanted:
        fleet.start()
    return hard


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The whole story."""
    rng = random.Random(options.seed)  # noqa: S311
    work = ["--threads", "1", "--analysis-side", str(options.analysis_side), "--fps", "2", "--commit-interval", "0.5"]
    if options.bundle is not None:
        work += ["--bundle", str(options.bundle)]
    where = folder / "kafka"
    node = ApacheKafkaCluster(where, seed=options.seed) if options.cluster else ApacheKafka(where)
    with node as kafka:
        broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka.bootstrap))
        records = publish(broker, options.clips, options.streams, options.loops, tuple(options.form))
        print(f"{records} records of {options.streams} streams", file=sys.stderr, flush=True)
        if not records:
            raise SystemExit("nothing could be published of these clips: there is nothing to lose")
        calm = Fleet(kafka.bootstrap, "calm", work, folder)
        calm.start()
        calm_s = wait_until_done(broker, calm, options.timeout)
        calm.close()
        reference, doubled, buried = seen(broker, "calm")
        print(f"undisturbed: {len(reference)} frames in {calm_s:.0f} s, doubled {doubled}, buried {buried}", flush=True)
        storm = Fleet(kafka.bootstrap, "storm", work, folder, options.supervised)
        for _ in range(storm.wanted):
            storm.start()
        kills = torment(kafka, storm, options.kills, rng, options.pause, options.broker_kills, options.broker_away)
        wait_until_done(broker, storm, options.timeout)
        storm.close()
        found, doubled, buried = seen(broker, "storm")
        broker.close()
    lost = reference.keys() - found.keys()
    extra = found.keys() - reference.keys()
    for key in sorted(lost | extra)[:5]:
        print(f"{'lost' if key in lost else 'extra'}: {key}")
    differences = {key: difference(reference[key], found[key]) for key in reference.keys() & found.keys()}
    worst = max(differences, key=lambda key: differences[key], default=None)
    if worst is not None and differences[worst] > 1e-6:
        print(f"differs: {worst}\n  {reference[worst]}\n  {found[worst]}")
    return {
        "kills": kills,
        "broker_kills": min(options.broker_kills, kills),
        "frames": len(reference),
        "lost": len(lost),
        "doubled": doubled,
        "extra": len(extra),
        "deadletters": buried,
        "max_score_diff": max(differences.values(), default=float("inf")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", type=Path, nargs="+", help="videos, or folders of them")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--broker-kills", type=int, default=0, help="how often the broker is killed, too")
    parser.add_argument("--broker-away", type=float, default=0.0, help="seconds until it is started again")
    parser.add_argument("--cluster", action="store_true", help="three brokers, of which one at a time is hit")
    parser.add_argument("--streams", type=int, default=12)
    parser.add_argument("--loops", type=int, default=2)
    parser.add_argument("--form", type=Form, nargs="+", default=FORMS, help="what the streams are: all kinds in turn")
    parser.add_argument("--pause", type=float, default=3.0, help="mean seconds between two kills")
    parser.add_argument("--supervised", action="store_true", help="one command with three workers")
    parser.add_argument("--analysis-side", type=int, default=320)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--timeout", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for logs; a temporary one otherwise")
    options = parser.parse_args()
    try:
        options.clips = clips_of(options.clips)
    except ValueError as error:
        parser.error(str(error))
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        result = run(options, folder)
    print(" ".join(f"{name}={value}" for name, value in result.items()), flush=True)
    good = not (result["lost"] or result["doubled"] or result["extra"] or result["deadletters"])
    sys.exit(0 if good and result["max_score_diff"] <= 1e-6 else 1)


if __name__ == "__main__":
    main()
