"""The Helm chart: rendered by Helm's own library, and held to the schemas of Kubernetes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml
from promql import DEPLOY, mistakes
from typer.main import get_command

from stream.cli import app

helm = pytest.importorskip("helm_python", reason="no Helm library for this platform")
kubernetes_validate = pytest.importorskip("kubernetes_validate")

CHART = DEPLOY / "helm" / "difffake"
#: The oldest that the chart promises, and a new one.
KUBERNETES = ("1.27", "1.37")
LEAST: dict[str, Any] = {"kafka": {"bootstrapServers": "kafka:9092"}}
ALL: dict[str, Any] = {
    "kafka": {
        "bootstrapServers": "kafka-1:9093,kafka-2:9093",
        "inputTopics": ["video.in", "video.more"],
        "securityProtocol": "SASL_SSL",
        "tls": {"secretName": "kafka-tls", "certificate": "tls.crt", "key": "tls.key"},
        "sasl": {"mechanism": "SCRAM-SHA-512", "username": "difffake", "secretName": "kafka-user"},
    },
    "worker": {
        "overload": "shed",
        "engine": "auto",
        "enginesClaim": "engines",
        "gpu": {"enabled": True, "runtimeClassName": "nvidia"},
        "extraArgs": ["--guests"],
        "extraEnv": [{"name": "A", "value": "b"}],
        "nodeSelector": {"card": "l4"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "podAnnotations": {"a": "b"},
    },
    "autoscaling": {"enabled": True},
    "monitoring": {
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "runbook": "https://example.org/runbook"},
        "dashboards": {"enabled": True},
    },
    "wall": {"enabled": True, "tokenSecretName": "operators", "pictures": True, "allowHosts": ["wall.example.org"]},
    "hooks": {
        "receivers": [
            {"name": "desk", "secretName": "desk-hook"},
            {"name": "chat", "secretName": "chat-hook", "payload": "slack"},
        ]
    },
    "networkPolicy": {"kafkaPorts": [9092, 9093]},
    "imagePullSecrets": [{"name": "registry"}],
}
#: Of the safe loaders, the one in C where there is one: dashboards are long.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
WHICH = pytest.mark.parametrize("values", [LEAST, ALL], ids=["least", "all"])


@pytest.fixture(scope="module")
def chart() -> Iterator[Any]:
    with helm.Chart.load(str(CHART)) as loaded:
        yield loaded


def rendered(chart: Any, values: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Objects by kind and name, for a release `live` in the namespace `tv`."""
    files = chart.render(values, name="live", namespace="tv")
    texts = [text for name, text in files.items() if name.endswith(".yaml")]
    objects = [one for text in texts for one in yaml.load_all(text, Loader=_LOADER) if one]
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


def container(one: Mapping[str, Any]) -> dict[str, Any]:
    """The only container of a Deployment."""
    (found,) = one["spec"]["template"]["spec"]["containers"]
    return dict(found)


@WHICH
@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_what_is_rendered(chart: Any, values: dict[str, Any], version: str) -> None:
    objects = rendered(chart, values)
    own = {key: one for key, one in objects.items() if one["apiVersion"].split("/")[0] not in _OPERATORS}
    assert ("Deployment", "live-difffake-worker") in own
    for one in own.values():
        kubernetes_validate.validate(one, version, strict=True)


#: Groups of objects whose definitions come with an operator, not with Kubernetes.
_OPERATORS = ("keda.sh", "monitoring.coreos.com")


def test_least_needs_no_operator(chart: Any) -> None:
    kinds = {kind for kind, _ in rendered(chart, LEAST)}
    assert kinds == {"Deployment", "NetworkPolicy", "PodDisruptionBudget", "ServiceAccount"}


@WHICH
def test_commands_are_ones_that_the_program_has(chart: Any, values: dict[str, Any]) -> None:
    commands = get_command(app).commands
    for (kind, _), one in rendered(chart, values).items():
        if kind == "Deployment":
            words = [word.replace("$(DIFFFAKE_CORES)", "2") for word in container(one)["args"]]
            environment = {e["name"]: e.get("value", "https://from-a.secret/") for e in container(one)["env"]}
            _understood(commands[words[0]], words[1:], environment)


def _understood(command: Any, words: list[str], environment: dict[str, str]) -> None:
    """Options are parsed and converted as on the command line; nothing is run."""
    given = {name: value for name, value in os.environ.items() if not name.startswith("DIFFFAKE_")} | environment
    known = {param.envvar for param in command.params if param.envvar}
    known |= {"DIFFFAKE_CORES", "DIFFFAKE_TLS_KEY_PASSWORD", "DIFFFAKE_HOOK_SECRET"}
    assert {name for name in environment if name.startswith("DIFFFAKE_")} <= known
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            patch.delenv(name)
        for name, value in given.items():
            patch.setenv(name, value)
        context = command.make_context(command.name, words)
    assert context.params["bootstrap_servers"] == environment["DIFFFAKE_BOOTSTRAP_SERVERS"]


@WHICH
def test_nobody_is_root_and_nothing_can_be_written(chart: Any, values: dict[str, Any]) -> None:
    for (kind, _), one in rendered(chart, values).items():
        if kind != "Deployment":
            continue
        pod, only = one["spec"]["template"]["spec"], container(one)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert only["securityContext"]["readOnlyRootFilesystem"] is True
        assert only["securityContext"]["allowPrivilegeEscalation"] is False
        assert only["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= set(only["resources"])
        # What is mounted is there, and the other way round.
        assert {m["name"] for m in only["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


def test_secrets_are_files(chart: Any) -> None:
    worker = rendered(chart, ALL)["Deployment", "live-difffake-worker"]
    environment = {e["name"]: e.get("value") for e in container(worker)["env"]}
    mounts = {m["name"]: m["mountPath"] for m in container(worker)["volumeMounts"]}
    volumes = {v["name"]: v for v in worker["spec"]["template"]["spec"]["volumes"]}
    assert environment["DIFFFAKE_SASL_PASSWORD_FILE"] == f"{mounts['sasl']}/password"
    assert volumes["sasl"]["secret"]["secretName"] == "kafka-user"
    assert environment["DIFFFAKE_TLS_KEY"] == f"{mounts['tls']}/tls.key"
    assert volumes["tls"]["secret"]["secretName"] == "kafka-tls"


def test_a_worker_is_given_the_time_that_it_takes_to_drain(chart: Any) -> None:
    values = {**LEAST, "worker": {"drainTimeoutSeconds": 40}}
    worker = rendered(chart, values)["Deployment", "live-difffake-worker"]
    assert worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 40
    assert {"name": "DIFFFAKE_DRAIN_TIMEOUT", "value": "40"} in container(worker)["env"]


def test_selectors_find_their_pods_and_no_others(chart: Any) -> None:
    objects = rendered(chart, ALL)
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"]
        for (kind, name), one in objects.items()
        if kind == "Deployment"
    }

    def found(selector: Mapping[str, str]) -> set[str]:
        return {name for name, there in labels.items() if selector.items() <= there.items()}

    assert found(objects["PodDisruptionBudget", "live-difffake-worker"]["spec"]["selector"]["matchLabels"]) == {
        "live-difffake-worker"
    }
    assert found(objects["Service", "live-difffake-wall"]["spec"]["selector"]) == {"live-difffake-wall"}
    for name in labels:
        assert found(objects["Deployment", name]["spec"]["selector"]["matchLabels"]) == {name}
        policies = [one for (kind, _), one in objects.items() if kind == "NetworkPolicy"]
        assert sum(name in found(one["spec"]["podSelector"]["matchLabels"]) for one in policies) == 1
    assert objects["ScaledObject", "live-difffake-worker"]["spec"]["scaleTargetRef"]["name"] in labels


def test_everything_that_has_metrics_is_scraped_and_may_be(chart: Any) -> None:
    objects = rendered(chart, ALL)
    monitor = objects["PodMonitor", "live-difffake"]["spec"]
    scraped = {endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]}
    receiver = {"sourceLabels": ["__meta_kubernetes_pod_label_difffake_receiver"], "targetLabel": "receiver"}
    assert all(endpoint["relabelings"] == [receiver] for endpoint in monitor["podMetricsEndpoints"])
    deployments = {name: one for (kind, name), one in objects.items() if kind == "Deployment"}
    assert len(deployments) == 4
    for name, one in deployments.items():
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        # Rules tell hooks of several receivers apart by the label that this becomes.
        assert ("difffake/receiver" in labels) == ("-hooks-" in name)
        # One endpoint each: a series that is scraped twice counts twice.
        (port,) = [port["name"] for port in container(one)["ports"] if port["name"] in scraped]
        (policy,) = [
            other["spec"]
            for (kind, _), other in objects.items()
            if kind == "NetworkPolicy" and other["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
        ]
        prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
        open_to_it = [p["port"] for rule in policy["ingress"] if prometheus in rule["from"] for p in rule["ports"]]
        assert open_to_it == [port], name


def test_probes_ask_a_port_that_is_served(chart: Any) -> None:
    for (kind, name), one in rendered(chart, ALL).items():
        if kind != "Deployment":
            continue
        only = container(one)
        ports = {port["name"]: port["containerPort"] for port in only["ports"]}
        served = " ".join([*only["args"], *(str(e.get("value")) for e in only["env"])])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            (how,) = [only[probe][kind] for kind in ("httpGet", "tcpSocket") if kind in only[probe]]
            assert f"0.0.0.0:{ports[how['port']]}" in served, (name, probe)


def test_what_was_annotated_is(chart: Any) -> None:
    notes = {"podAnnotations": {"a": "b"}}
    values = {**ALL, "hooks": {**ALL["hooks"], **notes}, "wall": {**ALL["wall"], **notes}}
    for (kind, name), one in rendered(chart, values).items():
        if kind == "Deployment":
            assert one["spec"]["template"]["metadata"]["annotations"] == {"a": "b"}, name


def test_autoscaling_asks_for_what_workers_expose_and_alone_sets_their_number(chart: Any) -> None:
    objects = rendered(chart, ALL)
    asked = [t["metadata"]["query"] for t in _triggers(objects) if t["type"] == "prometheus"]
    assert len(asked) == 2
    for query in asked:
        # The namespace is a label that the Prometheus operator adds.
        assert mistakes(query.replace('namespace="tv", ', "")) == []
        assert 'namespace="tv", job="live"' in query
    assert "replicas" not in objects["Deployment", "live-difffake-worker"]["spec"]
    assert rendered(chart, LEAST)["Deployment", "live-difffake-worker"]["spec"]["replicas"] == 2
    waiting = rendered(chart, {**LEAST, "autoscaling": {"enabled": True}})
    assert [t["name"] for t in _triggers(waiting)] == ["lag-seconds", "cpu"]


def _triggers(objects: dict[tuple[str, str], dict[str, Any]]) -> list[dict[str, Any]]:
    return list(objects["ScaledObject", "live-difffake-worker"]["spec"]["triggers"])


def test_rules_and_dashboards_are_those_of_the_repository(chart: Any) -> None:
    objects = rendered(chart, ALL)
    groups = objects["PrometheusRule", "live-difffake"]["spec"]["groups"]
    files = [DEPLOY / "prometheus" / "rules" / f"{name}.yml" for name in ("recording", "alerts")]
    written = [yaml.safe_load(f.read_text().replace("docs/runbook.md", "https://example.org/runbook")) for f in files]
    assert groups == [group for one in written for group in one["groups"]]
    data = objects["ConfigMap", "live-difffake-dashboards"]["data"]
    for name in ("operators", "engineers"):
        file = DEPLOY / "grafana" / "dashboards" / f"{name}.json"
        assert json.loads(data[f"difffake-{name}.json"]) == json.loads(file.read_text())


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"kafka": {"bootstrapServers": "k:9092", "inputTopic": "misspelt"}},
        {"kafka": {"bootstrapServers": "k:9092", "securityProtocol": "TLS"}},
        {"kafka": {"bootstrapServers": "k:9092", "sasl": {"mechanism": "PLAIN"}}},
        {**LEAST, "worker": {"replicas": -1}},
        {**LEAST, "worker": {"resources": {"requests": {}, "limits": {"memory": "1Gi", "cpu": None}}}},
    ],
    ids=["no-kafka", "misspelt", "no-such-protocol", "no-user", "negative", "no-cores"],
)
def test_values_that_cannot_be_meant_are_refused(chart: Any, values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmError):
        rendered(chart, values)


@pytest.mark.parametrize(
    "worker",
    [
        {"extraArgs": ["--guests", "--workers=4"]},
        {"extraArgs": ["--workers", "0"]},
        {"extraEnv": [{"name": "DIFFFAKE_WORKERS", "value": "4"}]},
    ],
)
def test_several_workers_in_a_pod_of_which_only_the_first_is_seen_are_refused(
    chart: Any, worker: dict[str, Any]
) -> None:
    with pytest.raises(helm.HelmError, match=r"see the first worker of each pod alone: set worker\.replicas"):
        rendered(chart, {**LEAST, "worker": worker})
