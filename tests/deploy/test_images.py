"""The Dockerfile and compose.yaml: no Docker runs here, so what can be known without one."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import Command
from promql import DEPLOY
from typer.main import get_command

from stream.cli import app
from stream.metrics.instruments import Metrics
from stream.probes import Door

ROOT = DEPLOY.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("worker", "wall", "hooks", "publisher")
COMMANDS: dict[str, Command] = get_command(app).commands  # type: ignore[attr-defined]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage of the Dockerfile, with those that it builds upon."""
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    lines = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(str.strip, lines.splitlines()):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            current = found[name.strip()] = list(found.get(base.strip(), []))
        current.append((word, rest.strip()))
    return found


FINAL = ("cpu", "gpu", "demo")


def test_hadolint_finds_nothing() -> None:
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("no hadolint for this platform")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_base_is_pinned() -> None:
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    bases = {rest.split(" AS ")[0].strip() for _, rest in re.findall(r"^(FROM) (.+)$", DOCKERFILE, re.MULTILINE)}
    assert bases <= {"${PYTHON_IMAGE}"} | stages().keys()


@pytest.mark.parametrize("stage", FINAL)
def test_what_runs_is_nobody_without_build_tools(stage: str) -> None:
    steps = stages()[stage]
    assert [rest for word, rest in steps if word == "USER"][-1] == "10001:10001"
    assert not any("apt-get" in rest or "pip install" in rest for word, rest in steps if word == "RUN")
    assert any("pip uninstall" in rest for word, rest in steps if word == "RUN")
    copied = [rest for word, rest in steps if word in ("COPY", "ADD")]
    assert all(rest.startswith("--from=") for rest in copied), "a final image takes what was built, no sources"
    labels = " ".join(rest for word, rest in steps if word == "LABEL")
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels


@pytest.mark.parametrize("stage", ["cpu", "gpu"])
def test_health_is_asked_of_the_door_that_the_worker_opens(stage: str) -> None:
    steps = stages()[stage]
    (check,) = [rest for word, rest in steps if word == "HEALTHCHECK"]
    environment = " ".join(rest for word, rest in steps if word == "ENV")
    port = re.search(r"DIFFFAKE_HTTP=0\.0\.0\.0:(\d+)", environment)
    assert port
    assert f"127.0.0.1:{port[1]}/livez" in check


def test_the_health_check_passes_while_a_worker_lives_and_fails_where_none_is() -> None:
    (check,) = [rest for word, rest in stages()["cpu"] if word == "HEALTHCHECK"]
    _, *words = json.loads(check.partition("CMD ")[2])
    with Door("127.0.0.1:0", Metrics()) as door:
        command = [sys.executable, *(word.replace(":9464/", f":{door.address[1]}/") for word in words)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_services_that_have_no_check_of_their_own_serve_what_the_images_check_asks() -> None:
    for name in OURS:
        check, target = SERVICES[name].get("healthcheck"), SERVICES[name]["build"]["target"]
        (asked,) = [rest for word, rest in stages()[target] if word == "HEALTHCHECK"][-1:]
        if check is None and asked != "NONE":
            port = re.search(r"127\.0\.0\.1(:\d+)/", asked)
            assert port
            assert any(str(value).endswith(port[1]) for value in SERVICES[name]["environment"].values()), name


def test_every_package_comes_with_its_hash() -> None:
    installs = [
        command
        for rest in (rest for steps in stages().values() for word, rest in steps if word == "RUN")
        for command in rest.split("&&")
        if " install " in command
    ]
    assert installs
    for command in installs:
        assert "--require-hashes" in command or "dist/*.whl" in command


def test_the_builder_gets_what_is_copied_and_little_else() -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for rest in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
        if not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == sent
    assert all((ROOT / source).exists() for source in copied)


def test_compose_keeps_to_its_specification() -> None:
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*checker, ROOT / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_services_need_is_there() -> None:
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "test" in SERVICES[other]["healthcheck"], (name, other)
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (ROOT / source).exists() if source.startswith("./") else source in COMPOSE["volumes"]
        if "build" in service:
            assert service["build"]["target"] in FINAL
        else:
            assert re.search(r":v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?$", service["image"]), service["image"]


def test_nothing_is_open_to_the_world() -> None:
    for service in SERVICES.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for name in OURS:
        assert SERVICES[name]["read_only"] is True
        assert SERVICES[name]["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", OURS)
def test_commands_are_ones_that_the_program_has(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = SERVICES[name]
    target = stages()[service["build"]["target"]]
    words = service.get("command") or _words([rest for word, rest in target if word == "CMD"][-1])
    for variable, value in service["environment"].items():
        value = re.sub(r"\$\{\w+:-(.*)\}", r"\1", value)
        monkeypatch.setenv(variable, value or "https://example.org/hook" if variable == "DIFFFAKE_HOOK_URL" else value)
    command = COMMANDS[words[0]]
    context = command.make_context(words[0], list(words[1:]))
    assert context.params["bootstrap_servers"] == "kafka:9092"


def _words(exec_form: str) -> list[str]:
    return list(yaml.safe_load(exec_form))


def test_the_input_topic_is_the_one_that_workers_read_and_takes_what_they_take() -> None:
    topics = SERVICES["topics"]["command"]
    worker = SERVICES["worker"]["command"]
    assert f"--topic={worker[worker.index('--topic') + 1]}" in topics
    most = int(SERVICES["kafka"]["environment"]["KAFKA_MESSAGE_MAX_BYTES"])
    assert f"--config=max.message.bytes={most}" in topics


def test_prometheus_finds_what_has_metrics_and_grafana_finds_prometheus() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (job,) = [one for one in config["scrape_configs"] if "dns_sd_configs" in one]
    asked = {name: discovered["port"] for discovered in job["dns_sd_configs"] for name in discovered["names"]}
    addresses = {
        "worker": SERVICES["worker"]["environment"]["DIFFFAKE_HTTP"],
        "hooks": SERVICES["hooks"]["environment"]["DIFFFAKE_HOOK_HTTP"],
        "wall": SERVICES["wall"]["command"][SERVICES["wall"]["command"].index("--http") + 1],
    }
    assert {name: f"0.0.0.0:{port}" for name, port in asked.items()} == addresses
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "difffake.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "difffake.yml").read_text())["providers"]
    assert f"./deploy/grafana/dashboards:{provider['options']['path']}:ro" in SERVICES["grafana"]["volumes"]
