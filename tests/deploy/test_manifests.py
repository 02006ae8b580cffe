"""The manifests fit KubeRay's schema, letter for letter, and keep the rules that no schema holds.

The rules answer failures that others met: idle pods that are billed for ever, jobs that run twice, open dashboards,
shared memory that is too small, versions that differ. Each rule is also shown a manifest with the fault planted.
"""

from __future__ import annotations

import copy
import gzip
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from jsonschema import Draft202012Validator

from semgen_cli.main import app

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = ROOT.parent / "shared" / "data" / "crds"
MANIFESTS = sorted((ROOT / "deploy").rglob("*.yaml"))
UNITS = {"": 1, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
SHM_SHARE = 0.95  # KubeRay caps Ray's object store at this share of /dev/shm
MEMORY_SHARE = 0.4  # of a pod's memory for what lies in /dev/shm, which counts against the limit
SPARE_CPUS = 1  # semgen_pipelines.runtime adds one for Ray's own tasks
SECRET_WORDS = re.compile(r"token|secret|password|passwd|access_key|credential", re.IGNORECASE)

Document = dict[str, Any]


def documents() -> Iterator[Document]:
    for path in MANIFESTS:
        yield from (d for d in yaml.safe_load_all(path.read_text(encoding="utf-8")) if d)


RAY_OBJECTS = [d for d in documents() if str(d["apiVersion"]).startswith("ray.io/")]
each_object = pytest.mark.parametrize("document", RAY_OBJECTS, ids=[d["metadata"]["name"] for d in RAY_OBJECTS])


def strict(node: Any) -> Any:
    """The schema with every unknown key refused: a structural schema lets a misspelt optional key pass."""
    if isinstance(node, list):
        return [strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    out = {key: strict(value) for key, value in node.items()}
    open_map = node.get("x-kubernetes-preserve-unknown-fields")
    if node.get("type") == "object" and isinstance(node.get("properties"), dict) and not open_map:
        out.setdefault("additionalProperties", False)
    return out


def schema_faults(document: Document) -> list[str]:
    path = SCHEMAS / f"{document['kind'].lower()}.v1.schema.json.gz"
    if not path.exists():
        pytest.skip(f"KubeRay's schemas are not beside the checkout ({path.relative_to(ROOT.parent)})")
    validator = Draft202012Validator(strict(json.loads(gzip.decompress(path.read_bytes()))))
    return [f"{'/'.join(map(str, error.path))}: {error.message}" for error in validator.iter_errors(document)]


def cluster(document: Document) -> Document:
    spec: Document = (
        document["spec"].get("rayClusterSpec") or document["spec"].get("rayClusterConfig") or document["spec"]
    )
    return spec


def groups(document: Document) -> list[Document]:
    return [cluster(document)["headGroupSpec"], *cluster(document)["workerGroupSpecs"]]


def pods(document: Document) -> list[Document]:
    return [group["template"]["spec"] for group in groups(document)]


def quantity(text: Any) -> float:
    number, unit = re.fullmatch(r"([0-9.]+)([KMGT]i)?", str(text)).groups()  # type: ignore[union-attr]
    return float(number) * UNITS[unit or ""]


def ends_itself(document: Document) -> Iterator[str]:
    """A job frees its pods: shutdown, a time to live and deadlines."""
    if document["kind"] != "RayJob":
        return
    spec = document["spec"]
    if spec.get("shutdownAfterJobFinishes") is not True:
        yield "shutdownAfterJobFinishes is not true"
    for key in ("ttlSecondsAfterFinished", "activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if not spec.get(key, 0) > 0:
            yield f"{key} is not set"


def says_how_often_it_retries(document: Document) -> Iterator[str]:
    """Both retry limits are written down; KubeRay's submitter retries twice by default."""
    if document["kind"] != "RayJob":
        return
    if "backoffLimit" not in document["spec"]:
        yield "backoffLimit is not set"
    if "backoffLimit" not in document["spec"].get("submitterConfig", {}):
        yield "submitterConfig.backoffLimit is not set"
    if document["spec"].get("submissionMode") not in ("HTTPMode", "K8sJobMode"):
        yield "submissionMode is not HTTPMode or K8sJobMode; a typo submits nothing"


def runs_one_plain_command(document: Document) -> Iterator[str]:
    """The operator pastes the entry point into a shell line, where `&&` or `$` would mean something else."""
    entrypoint = str(document["spec"].get("entrypoint", "semgen-platform"))
    if re.search(r"[;&|$`<>\n]", entrypoint):
        yield f"entrypoint is more than one plain command: {entrypoint}"
    if shlex.split(entrypoint)[0] != "semgen-platform":
        yield f"entrypoint does not begin with semgen-platform: {entrypoint}"


def asks_for_a_token(document: Document) -> Iterator[str]:
    options = cluster(document).get("authOptions", {})
    if options.get("mode") != "token":
        yield "authOptions.mode is not token"
    if not options.get("secretName"):
        yield "authOptions.secretName is not set"


def is_closed_to_the_outside(document: Document) -> Iterator[str]:
    head = cluster(document)["headGroupSpec"]
    if head.get("serviceType") != "ClusterIP":
        yield "headGroupSpec.serviceType is not ClusterIP"
    if head.get("enableIngress"):
        yield "headGroupSpec.enableIngress is on"
    if any("hostPort" in port for pod in pods(document) for c in pod["containers"] for port in c.get("ports", [])):
        yield "a container port has a hostPort"


def keeps_work_off_the_head(document: Document) -> Iterator[str]:
    head = cluster(document)["headGroupSpec"]
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        yield 'the head lacks num-cpus: "0"'
    if quantity(head["template"]["spec"]["containers"][0]["resources"]["limits"]["memory"]) < 8 * 2**30:
        yield "the head has less than 8Gi"


def bounds_its_workers(document: Document) -> Iterator[str]:
    scaled = cluster(document).get("enableInTreeAutoscaling", False)
    if scaled and cluster(document).get("autoscalerOptions", {}).get("version") != "v2":
        yield "autoscalerOptions.version is not v2, which per-group idle times need"
    for group in cluster(document)["workerGroupSpecs"]:
        if not group.get("minReplicas", -1) <= group.get("maxReplicas", -2) < 1000:
            yield f"group {group['groupName']} has no bounded maxReplicas"
        if scaled and not group.get("idleTimeoutSeconds", 0) > 0:
            yield f"group {group['groupName']} has no idleTimeoutSeconds"


def asks_for_what_it_may_use(document: Document) -> Iterator[str]:
    for pod in pods(document):
        for container in pod["containers"]:
            resources = container.get("resources", {})
            if "memory" not in resources.get("limits", {}) or resources.get("requests") != resources.get("limits"):
                yield f"container {container['name']} has no memory limit or requests that differ from its limits"


def has_room_in_shared_memory(document: Document) -> Iterator[str]:
    """/dev/shm lies in memory, holds the object store, and counts against the pod's limit."""
    for group in groups(document):
        pod = group["template"]["spec"]
        container = pod["containers"][0]
        mounts = {m["mountPath"]: m["name"] for m in container.get("volumeMounts", [])}
        volumes = {v["name"]: v for v in pod.get("volumes", [])}
        shm = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
        if shm.get("medium") != "Memory" or "sizeLimit" not in shm:
            yield f"container {container['name']} has no /dev/shm in memory with a sizeLimit"
            continue
        store = quantity(group.get("rayStartParams", {}).get("object-store-memory", "0"))
        if not 0 < store <= SHM_SHARE * quantity(shm["sizeLimit"]):
            yield f"container {container['name']}: the object store ({store:g} bytes) is unset or does not fit /dev/shm"
        if quantity(shm["sizeLimit"]) > MEMORY_SHARE * quantity(container["resources"]["limits"]["memory"]):
            yield f"container {container['name']}: /dev/shm may take more than {MEMORY_SHARE:.0%} of the memory limit"


def keeps_secrets_in_files(document: Document) -> Iterator[str]:
    """Environment variables and commands end up in logs, dashboards and job records; mounted files do not."""
    for pod in pods(document):
        for container in pod["containers"]:
            for variable in container.get("env", []):
                if SECRET_WORDS.search(variable["name"]) or "secretKeyRef" in str(variable.get("valueFrom")):
                    yield f"container {container['name']} has the variable {variable['name']}"
            if any("secretRef" in source for source in container.get("envFrom", [])):
                yield f"container {container['name']} takes variables from a Secret"
    if "env_vars" in str(document["spec"].get("runtimeEnvYAML", "")):
        yield "runtimeEnvYAML has env_vars"
    if re.search(r"--[a-z-]*(token|password|secret)[ =]", str(document["spec"].get("entrypoint", ""))):
        yield "the entrypoint names a secret"


def runs_restricted(document: Document) -> Iterator[str]:
    """Pod Security's profile "restricted": no root, no escalation, no capabilities; workers hold no account token."""
    for pod in pods(document):
        if not pod.get("securityContext", {}).get("runAsNonRoot"):
            yield "a pod may run as root"
        for container in pod["containers"]:
            own = container.get("securityContext", {})
            if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
                yield f"container {container['name']} may gain privileges"
    for group in cluster(document)["workerGroupSpecs"]:
        if group["template"]["spec"].get("automountServiceAccountToken") is not False:
            yield f"group {group['groupName']} mounts a service account token"


def names_the_versions_of_this_checkout(document: Document) -> Iterator[str]:
    pins = dict(
        line.split("==") for line in (ROOT / "constraints/constraints.txt").read_text().splitlines() if "==" in line
    )
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    if cluster(document).get("rayVersion") != pins["ray"]:
        yield f"rayVersion is {cluster(document).get('rayVersion')} and constraints.txt pins ray {pins['ray']}"
    for image in {container["image"] for pod in pods(document) for container in pod["containers"]}:
        if image != f"semgen-platform:{version}":
            yield f"image {image} is not semgen-platform:{version}"


def has_cpus_for_its_workers(document: Document) -> Iterator[str]:
    """The command refuses a Ray that has too few CPUs when it joins, so the smallest cluster must carry it."""
    words = shlex.split(document["spec"].get("entrypoint", ""))
    if "--workers" not in words:
        return
    wanted = int(words[words.index("--workers") + 1]) + SPARE_CPUS
    offered = sum(
        group["minReplicas"] * quantity(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
        for group in cluster(document)["workerGroupSpecs"]
    )
    if offered < wanted:
        yield f"--workers needs {wanted} CPUs and the smallest cluster has {offered:g}"


def has_a_name_that_kuberay_takes(document: Document) -> Iterator[str]:
    name = document["metadata"]["name"]
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 47:
        yield f"name {name} is no DNS label of at most 47 characters"


RULES: tuple[Callable[[Document], Iterator[str]], ...] = (
    ends_itself,
    says_how_often_it_retries,
    runs_one_plain_command,
    asks_for_a_token,
    is_closed_to_the_outside,
    keeps_work_off_the_head,
    bounds_its_workers,
    asks_for_what_it_may_use,
    has_room_in_shared_memory,
    keeps_secrets_in_files,
    runs_restricted,
    names_the_versions_of_this_checkout,
    has_cpus_for_its_workers,
    has_a_name_that_kuberay_takes,
)


def test_there_is_a_job_that_ingests() -> None:
    assert [d["metadata"]["name"] for d in RAY_OBJECTS if d["kind"] == "RayJob"] == ["semgen-ingest"]
    assert all(d["apiVersion"] == "ray.io/v1" and d["spec"] for d in RAY_OBJECTS)


@each_object
def test_an_object_fits_the_strict_schema(document: Document) -> None:
    assert schema_faults(document) == []


@each_object
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_an_object_keeps_the_rule(document: Document, rule: Callable[[Document], Iterator[str]]) -> None:
    assert list(rule(document)) == []


@each_object
def test_the_entrypoint_is_a_command_of_this_version(document: Document) -> None:
    words = shlex.split(document["spec"]["entrypoint"])[1:]
    group: Any = typer.main.get_command(app)
    command = group.commands[words[0]]
    context = command.make_context(words[0], words[1:])  # raises for an unknown option
    assert context.params["sources"]


def test_every_resource_of_the_kustomization_is_there() -> None:
    (base,) = [d for d in documents() if d.get("kind") == "Kustomization"]
    present = {p.name for p in (ROOT / "deploy" / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(base["resources"]) == present


def ingest_with(path: str, value: Any) -> Document:
    """The ingest job with one value replaced; `path` is dotted, and None removes the key."""
    (job,) = [d for d in RAY_OBJECTS if d["metadata"]["name"] == "semgen-ingest"]
    planted = copy.deepcopy(job)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    node: Any = planted
    for part in parents:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return planted


HEAD = "spec.rayClusterSpec.headGroupSpec"
WORKER = "spec.rayClusterSpec.workerGroupSpecs.0"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.shutdownAfterJobFinish", True),
        (f"{HEAD}.rayStartParams.num-cpus", 0),
        (f"{WORKER}.groupName", None),
        ("spec.backoffLimit", "2"),
    ],
)
def test_the_strict_schema_finds_a_planted_fault(path: str, value: Any) -> None:
    assert schema_faults(ingest_with(path, value)) != []


@pytest.mark.parametrize(
    ("rule", "path", "value"),
    [
        (ends_itself, "spec.shutdownAfterJobFinishes", False),
        (ends_itself, "spec.ttlSecondsAfterFinished", None),
        (ends_itself, "spec.activeDeadlineSeconds", None),
        (says_how_often_it_retries, "spec.backoffLimit", None),
        (says_how_often_it_retries, "spec.submitterConfig", None),
        (says_how_often_it_retries, "spec.submissionMode", "HttpMode"),
        (runs_one_plain_command, "spec.entrypoint", "semgen-platform lake init && semgen-platform ingest /a"),
        (runs_one_plain_command, "spec.entrypoint", "python -m semgen_cli.main ingest /archive"),
        (asks_for_a_token, "spec.rayClusterSpec.authOptions", {"secretName": "semgen-ray-token"}),
        (asks_for_a_token, "spec.rayClusterSpec.authOptions.secretName", None),
        (is_closed_to_the_outside, f"{HEAD}.serviceType", "NodePort"),
        (is_closed_to_the_outside, f"{HEAD}.enableIngress", True),
        (keeps_work_off_the_head, f"{HEAD}.rayStartParams.num-cpus", None),
        (keeps_work_off_the_head, f"{HEAD}.template.spec.containers.0.resources.limits.memory", "4Gi"),
        (bounds_its_workers, f"{WORKER}.maxReplicas", None),
        (bounds_its_workers, f"{WORKER}.idleTimeoutSeconds", None),
        (bounds_its_workers, "spec.rayClusterSpec.autoscalerOptions.version", "v1"),
        (asks_for_what_it_may_use, f"{WORKER}.template.spec.containers.0.resources.limits.memory", "64Gi"),
        (asks_for_what_it_may_use, f"{WORKER}.template.spec.containers.0.resources", None),
        (has_room_in_shared_memory, f"{WORKER}.template.spec.volumes.2.emptyDir", {}),
        (has_room_in_shared_memory, f"{WORKER}.rayStartParams.object-store-memory", "8589934592"),
        (has_room_in_shared_memory, f"{WORKER}.template.spec.volumes.2.emptyDir.sizeLimit", "31Gi"),
        (
            keeps_secrets_in_files,
            f"{WORKER}.template.spec.containers.0.env",
            [{"name": "RAY_AUTH_TOKEN", "value": "x"}],
        ),
        (keeps_secrets_in_files, f"{WORKER}.template.spec.containers.0.envFrom", [{"secretRef": {"name": "k"}}]),
        (keeps_secrets_in_files, "spec.runtimeEnvYAML", "env_vars: {KEY: abc}"),
        (keeps_secrets_in_files, "spec.entrypoint", "semgen-platform serve --token abc"),
        (runs_restricted, f"{WORKER}.template.spec.securityContext", None),
        (runs_restricted, f"{HEAD}.template.spec.containers.0.securityContext", {}),
        (runs_restricted, f"{WORKER}.template.spec.automountServiceAccountToken", None),
        (names_the_versions_of_this_checkout, "spec.rayClusterSpec.rayVersion", "2.59.0"),
        (names_the_versions_of_this_checkout, f"{WORKER}.template.spec.containers.0.image", "semgen-platform:latest"),
        (has_cpus_for_its_workers, f"{WORKER}.minReplicas", 1),
        (has_a_name_that_kuberay_takes, "metadata.name", "Semgen_Ingest"),
    ],
)
def test_a_rule_finds_a_planted_fault(rule: Callable[[Document], Iterator[str]], path: str, value: Any) -> None:
    assert list(rule(ingest_with(path, value))) != []
