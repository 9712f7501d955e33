"""`difffake doctor`: what it sees, what it says is wrong, and that it runs where next to nothing is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from compiled import compile_tiny, needs_int8
from system_files import tree

from difffake.bundle import Bundle
from difffake.hardware import problem
from engines.choose import EngineKind
from stream.broker.contract import TopicSpec
from stream.broker.kafka import KafkaBroker, KafkaSettings
from stream.cli import main
from stream.doctor import engines as measured
from stream.doctor import software
from stream.doctor.cluster import cluster_checks
from stream.doctor.host import host_checks
from stream.doctor.report import State
from stream.kafka_options import KafkaOptions
from stream.topics import Topics

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(tiny_bundle: Bundle, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """`difffake doctor --json`; returns its exit code and the report."""
    monkeypatch.setattr("stream.commands_doctor.MEASURE_S", 0.01)

    def run(*arguments: object, bundle: Path = tiny_bundle.path) -> tuple[int, Any]:
        with pytest.raises(SystemExit) as left:
            main(["doctor", "--bundle", str(bundle), "--threads", "1", *map(str, arguments)])
        said = capsys.readouterr().out
        assert isinstance(left.value.code, int)
        return left.value.code, json.loads(said) if "--json" in arguments else said

    return run


def checks(report: Any) -> dict[str, Any]:
    return {check["name"]: check for section in report["sections"] for check in section["checks"]}


def test_what_it_says_of_this_machine(run: Run, tiny_bundle: Bundle) -> None:
    code, report = run("--json")
    assert code == 0
    assert report["model_id"] == tiny_bundle.model_id
    found = checks(report)
    assert {"processor", "cores", "memory", "ONNX Runtime", "OpenVINO", "TensorRT", "GPU", "video"} <= set(found)
    assert "H.264, H.265, AV1" in found["video"]["value"]
    assert {check["state"] for check in found.values()} <= {"ok", "note"}
    assert all(check["hint"] for check in found.values() if check["state"] != "ok")
    rows = {(row["network"], row["kind"]): row for row in report["engines"]}
    assert {network for network, _ in rows} == {"extractor", "detector"}
    assert [kind for (network, kind), row in rows.items() if network == "detector" and row["is_used"]] == ["onnx"]
    onnx = rows["extractor", "onnx"]
    assert (onnx["runs"], onnx["is_used"], onnx["is_best"], onnx["label"]) == (True, True, True, "onnx")
    assert set(onnx["per_s"]) == {"1", "8"}
    assert all(speed > 0 for row in rows.values() for speed in row["per_s"].values())
    assert all(row["reason"] and row["hint"] for row in rows.values() if not row["runs"])


def test_the_table_fits_a_terminal_of_80_columns(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, said = run()
    assert code == 0
    assert max(map(len, said.splitlines())) <= 80
    assert "a worker can run here" in said
    assert "in use, best" in said


def test_quick_measures_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured, "_runs_per_s", lambda *_: pytest.fail("measured"))
    _, report = run("--json", "--quick")
    assert [row["per_s"] for row in report["engines"]] == [{}] * len(report["engines"])


@needs_int8
def test_which_engine_is_used_and_which_would_be(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    engines = tmp_path / "engines"
    compile_tiny(tiny_bundle.engine_path, engines / "extractor", EngineKind.OPENVINO_INT8)
    for asked, used in (("onnx", "onnx"), ("auto", "openvino-int8"), ("openvino-fp32", "openvino-fp32")):
        code, report = run("--json", "--quick", "--engines", engines, "--engine", asked)
        rows = [row for row in report["engines"] if row["network"] == "extractor"]
        assert code == 0
        assert [row["kind"] for row in rows if row["is_used"]] == [used]
        assert [row["kind"] for row in rows if row["is_best"]] == ["openvino-int8"]
    _, said = run("--quick", "--engines", engines)
    assert "--engine onnx takes onnx; --engine auto would take openvino-int8" in said


def test_a_worker_that_could_not_run_is_a_problem_with_a_hint(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    code, report = run("--json", "--quick", "--engine", "openvino-int8")
    assert code == 1
    model = checks(report)["model"]
    assert model["state"] == "problem"
    assert "build_engine.py" in model["hint"]
    # What else runs is still told.
    assert [row["kind"] for row in report["engines"] if row["network"] == "extractor" and row["runs"]][-1] == "onnx"
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle.path, damaged)
    (damaged / "density.safetensors").unlink()
    code, report = run("--json", "--quick", bundle=damaged)
    assert (code, report["engines"]) == (1, [])
    assert "density.safetensors" in checks(report)["model"]["value"]
    code, said = run("--quick", bundle=tmp_path / "nothing")
    assert code == 1
    assert "a worker cannot run here: model" in said


def test_kafkas_checksums_in_python_are_a_problem(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from kafka.record import util

    monkeypatch.setattr(util, "crc32c_c", None)
    code, report = run("--json", "--quick")
    assert code == 1
    assert "crc32c" in checks(report)["kafka-python"]["hint"]


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(software, "_CODECS", {"h264": "H.264", "no such codec": "H.999"})
    (check,) = software._video()
    assert (check.state, "missing: H.999" in check.value, bool(check.hint)) == (State.NOTE, True, True)
    monkeypatch.setattr(software, "_CODECS", {"no such codec": "H.999"})
    assert software._video()[0].state is State.PROBLEM


# -- limits of a container ---------------------------------------------------------------------------------------------
def test_a_tight_container_is_noted_with_what_to_do(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        {
            "proc/cpuinfo": "model name : Old\nflags : sse2\n",
            "proc/meminfo": "MemTotal: 16777216 kB\nMemAvailable: 8388608 kB\n",
            "proc/self/cgroup": "0::/\n",
            "sys/fs/cgroup/cpu.max": "50000 100000",
            "sys/fs/cgroup/memory.max": str(1 << 29),
            "sys/fs/cgroup/memory.current": "0",
        },
    )
    found = {check.name: check for check in host_checks(root)}
    assert found["cores"].state is found["memory"].state is found["processor"].state is State.NOTE
    assert "--threads 1" in found["cores"].hint
    assert found["memory"].value == "16.0 GiB, 8.0 free; 0.5 GiB by the container's limit, 0.5 left"


# -- where next to nothing is installed --------------------------------------------------------------------------------
_BARE = """
import sys
for name in ("torch", "openvino", "tensorrt", "tensorrt_rtx", "cuda", "pycuda", "onnx", "sklearn", "timm", "nncf"):
    sys.modules[name] = None
import engines.choose, difffake
from stream.cli import main
main(sys.argv[1:])
"""


def test_without_any_optional_package(tiny_bundle: Bundle) -> None:
    arguments = ["doctor", "--quick", "--json", "--engine", "auto"]
    done = subprocess.run(
        [sys.executable, "-c", _BARE, *arguments, "--bundle", str(tiny_bundle.path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONWARNINGS": "error::ResourceWarning"},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["model_id"] == tiny_bundle.model_id
    assert "not installed" in checks(report)["OpenVINO"]["value"]
    assert [row["kind"] for row in report["engines"] if row["runs"]] == ["onnx", "onnx"]


def test_an_engine_that_is_not_installed_names_its_package(tiny_bundle: Bundle) -> None:
    arguments = ["scan", "x.mp4", "--engine", "openvino", "--bundle", str(tiny_bundle.path)]
    done = subprocess.run(
        [sys.executable, "-c", _BARE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 25
    assert done.stderr.startswith("error: OpenVINO is not installed. pip install 'difffake[openvino]'")


# -- Kafka -------------------------------------------------------------------------------------------------------------
def test_a_cluster_that_does_not_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.doctor.cluster._CONNECT_S", 0.5)
    code, report = run("--json", "--quick", "--bootstrap-servers", "127.0.0.1:1")
    assert code == 1
    assert checks(report)["Kafka"]["state"] == "problem"
    assert checks(report)["Kafka"]["hint"]


@pytest.mark.kafka
def test_what_a_cluster_lacks(kafka_bootstrap: str) -> None:
    options = KafkaOptions(kafka_bootstrap, max_message_bytes=4 << 20)
    name = f"doctor-{uuid.uuid4().hex[:8]}"
    topics, video = Topics.under(name), f"{name}.video"

    def look() -> dict[str, Any]:
        return {check.name: check for check in cluster_checks(options, [video], topics, name)}

    found = look()
    assert (found["Kafka"].state, found["transactions"].state) == (State.OK, State.OK)
    assert found[video].state is State.PROBLEM
    assert "--create-topic" in found[video].hint
    assert found[topics.state].value.startswith("not there yet")
    broker = KafkaBroker(KafkaSettings(bootstrap_servers=kafka_bootstrap))
    try:
        broker.ensure_topics(
            [
                TopicSpec(video, 3, max_message_bytes=1 << 20),
                TopicSpec(topics.state, 3),
                TopicSpec(topics.scores, 3, max_message_bytes=1000),
                TopicSpec(topics.enrolments, 1, compacted=True),
                TopicSpec(topics.deadletters, 3, compacted=True),
            ]
        )
        found = look()
    finally:
        broker.close()
    states = {check.name: (check.state, check.hint.rpartition(" ")[2]) for check in found.values()}
    assert states[video] == (State.NOTE, f"max.message.bytes={4 << 20}")
    assert states[topics.state] == (State.PROBLEM, "cleanup.policy=compact")
    assert states[topics.deadletters] == (State.PROBLEM, "cleanup.policy=delete")
    assert states[topics.scores] == (State.NOTE, f"max.message.bytes={1 << 20}")
    assert states[topics.enrolments] == (State.OK, "")
    assert found[video].value == "input, 3 partitions, records up to 1024 KiB"


@pytest.mark.skipif(problem() is None, reason="this machine decodes on a GPU")
def test_software_decoding_is_told_and_a_worker_refuses_to_pretend(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    _, report = run("--json", "--quick")
    assert checks(report)["decoding"]["value"].startswith("in software; no GPU that decodes")
    with pytest.raises(SystemExit) as left:
        main(["work", "--hwaccel", "cuda", "--bootstrap-servers", "127.0.0.1:1"])
    assert left.value.code == 25
    assert "cannot decode on the GPU" in capsys.readouterr().err
