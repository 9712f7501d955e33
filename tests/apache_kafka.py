"""A real Apache Kafka node for tests and chaos runs: fetched once from Maven Central, started on free ports.

Needs Java 17+ and, the first time, Maven with a way to Maven Central::

    with ApacheKafka(folder) as kafka:
        ...  # kafka.bootstrap, kafka.kill(), kafka.start(): the same data, the same ports
"""

from __future__ import annotations

import base64
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
import warnings
from pathlib import Path
from typing import Self

with warnings.catch_warnings():
    # kafka-python reads its schemas by a function that Python 3.11 calls deprecated (3.13 no longer does).
    warnings.filterwarnings("ignore", "(read|open)_text is deprecated", DeprecationWarning)
    from kafka import KafkaAdminClient
    from kafka.errors import KafkaError

from certificates import Certificates

HERE = Path(__file__).parent / "kafka"
CACHE = Path(__file__).parents[1] / ".cache" / "kafka"
MIN_JAVA = 17
#: Of a cluster.
NODES = 3
#: Topics of Kafka's own.
_INTERNAL = ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic")
HEAP_MB = 384


class KafkaMissing(RuntimeError):  # noqa: N818  (it names what is missing, nothing went wrong)
    """No Apache Kafka can be run here; the message says why."""


def java_version(java: str) -> int:
    """The feature version: 17, 21. 0 when it cannot be told."""
    answer = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', answer.stderr + answer.stdout)
    return int(found.group(1)) if found else 0


def class_path() -> str:
    """Jars from the cache; fetched when they are not there. Raises `KafkaMissing`."""
    version = re.search(r"<kafka.version>(.+)</kafka.version>", (HERE / "pom.xml").read_text())
    assert version
    jars = CACHE / version.group(1)
    if not jars.exists():
        maven = shutil.which("mvn")
        if maven is None:
            raise KafkaMissing("no Maven (mvn) to fetch Apache Kafka with")
        half = jars.with_suffix(f".{os.getpid()}")  # renamed when whole: an interrupted download is never used
        fetch = [maven, "-q", "-B", "-f", str(HERE / "pom.xml"), "dependency:copy-dependencies"]
        done = subprocess.run([*fetch, f"-DoutputDirectory={half}"], capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(half, ignore_errors=True)
            raise KafkaMissing(f"Maven could not fetch Apache Kafka: {(done.stdout + done.stderr).strip()[-300:]}")
        with contextlib.suppress(OSError):  # another run was faster
            half.rename(jars)
        shutil.rmtree(half, ignore_errors=True)
    return f"{jars}/*"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


class ApacheKafka:
    """One node (broker and controller) whose data lives in `folder`.

    `bootstrap` takes anybody; `sasl_bootstrap` wants SASL PLAIN with `sasl_username` and `sasl_password`.
    `properties` override `tests/kafka/server.properties`. With `certificates` there are three more doors:
    `tls_bootstrap`, `mutual_tls_bootstrap` that wants a client certificate, and `scram_bootstrap` that wants SASL SCRAM
    over TLS, with the same user and password.
    """

    sasl_username = "difffake"
    sasl_password = "right"  # noqa: S105  (a node on the loopback that lives for one test run)

    def __init__(
        self, folder: Path, *, properties: dict[str, str] | None = None, certificates: Certificates | None = None
    ) -> None:
        java = shutil.which("java")
        if java is None or java_version(java) < MIN_JAVA:
            raise KafkaMissing(f"no Java {MIN_JAVA} or newer to run Apache Kafka with")
        self.folder = folder
        self.log = folder / "kafka.log"
        self.cluster_id = base64.urlsafe_b64encode(os.urandom(16)).rstrip(b"=").decode().replace("-", "A")
        port, sasl_port, controller_port, *tls_ports = free_ports(6)
        self.controller = f"127.0.0.1:{controller_port}"
        self._address = ("127.0.0.1", port)
        self.bootstrap = f"127.0.0.1:{port}"
        self.sasl_bootstrap = f"127.0.0.1:{sasl_port}"
        self.tls_bootstrap, self.mutual_tls_bootstrap, self.scram_bootstrap = (f"127.0.0.1:{p}" for p in tls_ports)
        self.certificates = certificates
        self._process: subprocess.Popen[bytes] | None = None
        options = [f"-Xms64m -Xmx{HEAP_MB}m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Xshare:auto"]
        options += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn -Dorg.slf4j.simpleLogger.showDateTime=true"]
        self._java = [java, *" ".join(options).split(), "-cp", class_path()]
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "server.properties"
        text = (HERE / "server.properties").read_text()
        values: dict[str, object] = {
            "port": port,
            "sasl_port": sasl_port,
            "controller_port": controller_port,
            "folder": folder,
        }
        values |= {"sasl_username": self.sasl_username, "sasl_password": self.sasl_password}
        if certificates is not None:
            text += (HERE / "tls.properties").read_text()
            values |= dict(zip(("tls_port", "mutual_tls_port", "scram_port"), tls_ports, strict=True))
            values |= {"ca": certificates.ca, "broker": certificates.broker}
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", str(value))
        self._config.write_text(text)
        self.configure(properties or {})

    def configure(self, properties: dict[str, str]) -> None:
        """Override properties from the next start on."""
        with self._config.open("a") as config:
            config.writelines(f"\n{key}={value}" for key, value in properties.items())

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process and self.running else None

    def start(self, timeout_s: float = 60.0) -> None:
        """Returns when clients are served. Data of an earlier start is taken up again."""
        if not self.running:
            self.launch()
            self.wait(timeout_s)

    def launch(self) -> None:
        """The first half of `start`: a process that nobody has waited for."""
        if not (self.folder / "data" / "meta.properties").exists():
            users = [] if self.certificates is None else ["SCRAM-SHA-256", "SCRAM-SHA-512"]
            added = [
                part for u in users for part in ("-S", f"{u}=[name={self.sasl_username},password={self.sasl_password}]")
            ]
            self._run_tool("kafka.tools.StorageTool", "format", "-t", self.cluster_id, "-c", str(self._config), *added)
        # A node must not outlive a test run that was killed.
        setpriv = shutil.which("setpriv")
        guard = [setpriv, "--pdeathsig", "KILL"] if setpriv else []
        with self.log.open("ab") as log:
            command = [*guard, *self._java, "kafka.Kafka", str(self._config)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def stop(self, timeout_s: float = 20.0) -> None:
        """Ends in order (SIGTERM), else by force."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """SIGKILL: as a power cut, but what the kernel has buffered survives."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stops in order and starts again: the same data, the same ports."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def _run_tool(self, *arguments: str) -> None:
        done = subprocess.run([*self._java, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{arguments[0]} failed: {(done.stdout + done.stderr)[-2000:]}")

    def wait(self, timeout_s: float = 60.0) -> None:
        """The second half of `start`: returns when clients are served."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if not self.running:
                raise RuntimeError(f"Apache Kafka ended at its start: {self.log.read_text()[-2000:]}")
            try:
                # A refused connection leaves a socket behind in kafka-python, so it comes second.
                socket.create_connection(self._address, timeout=1).close()
                admin = KafkaAdminClient(bootstrap_servers=self.bootstrap, bootstrap_timeout_ms=1000)
            except (KafkaError, OSError):
                time.sleep(0.05)
                continue
            admin.close()
            return
        tail = self.log.read_text()[-2000:]
        self.kill()
        raise RuntimeError(f"Apache Kafka did not come up in {timeout_s:.0f} s: {tail}")


class ApacheKafkaCluster:
    """Three nodes that replace each other: all that is written is on three, and counts when two have it.

    Used as one node is: `kill` and `restart` hit one at random, `start` brings back whoever is away.
    """

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        self._rng = random.Random(seed)  # noqa: S311
        self.nodes = [ApacheKafka(folder / f"node-{n}") for n in range(NODES)]
        voters = ",".join(f"{n}@{node.controller}" for n, node in enumerate(self.nodes))
        copies = {f"{what}.replication.factor": str(NODES) for what in _INTERNAL} | {
            "default.replication.factor": str(NODES),
            "min.insync.replicas": "2",
            "transaction.state.log.min.isr": "2",
        }
        for n, node in enumerate(self.nodes):
            node.cluster_id = self.nodes[0].cluster_id
            node.configure({"node.id": str(n), "controller.quorum.voters": voters} | copies)

    @property
    def bootstrap(self) -> str:
        """All of them."""
        return ",".join(node.bootstrap for node in self.nodes)

    def start(self) -> None:
        """Returns when all serve clients."""
        away = [node for node in self.nodes if not node.running]
        for node in away:
            node.launch()
        for node in away:
            node.wait()

    def kill(self) -> None:
        """SIGKILL to one that runs."""
        self._rng.choice([node for node in self.nodes if node.running]).kill()

    def restart(self) -> None:
        """Stops one in order and starts it again."""
        self._rng.choice([node for node in self.nodes if node.running]).restart()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for node in self.nodes:
            node.kill()
