"""What stands in deploy/ fits Kubernetes' schema, the image and the code."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import numpy as np
import pytest
import yaml

from index_builder.__main__ import _parser as builder_parser
from index_builder.pipelines.changes.merge import MergeRequest, merge
from retrieval import VERSION
from retrieval.artifact.build import base_of
from retrieval.artifact.store import current_build_id, open_current
from service.__main__ import _parser as service_parser
from service.http.openapi import OPERATIONS
from service.settings import SCHEMA, Settings, read_milvus, read_settings
from service.workers.server import STOPPING_BUSY_TIMEOUT_SECONDS
from tests.support.catalogues import write_lines
from tests.support.published import publish
from tests.support.updated import random_rows

ROOT = Path(__file__).parent.parent.parent
DEPLOY, DOCKERFILE = ROOT / "deploy", (ROOT / "Dockerfile").read_text()
MANIFESTS = sorted((DEPLOY / "kubernetes").rglob("*.yaml"))
OUR_IMAGE = re.compile(r"jetmlett(:[\w.]+)?")
FOREIGN_KINDS = {"ServiceMonitor"}  # of operators, whose schemas are not Kubernetes' own
SLOWEST_STOP_SECONDS = STOPPING_BUSY_TIMEOUT_SECONDS + 1  # after the drain


def documents(path: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def only(kind: str) -> dict[str, Any]:
    [document] = [document for path in MANIFESTS for document in documents(path) if document["kind"] == kind]
    return document


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Each workload's name and pod template."""
    for document in [document for path in MANIFESTS for document in documents(path)]:
        spec = document.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            yield document["metadata"]["name"], template


PODS = dict(pods())
CONTAINERS = {
    f"{name}-{container['name']}": container
    for name, pod in PODS.items()
    for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
}
SERVICE_POD = PODS["jetmlett"]["spec"]
[CHECK], [SERVICE] = SERVICE_POD["initContainers"], SERVICE_POD["containers"]


def environment(container: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable.get("value", "from-a-secret") for variable in container["env"]}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    [document] = documents(DEPLOY / "compose.yaml")
    return document["services"]


@pytest.fixture(scope="module")
def our_services(compose: dict[str, Any]) -> dict[str, Any]:
    return {name: service for name, service in compose.items() if OUR_IMAGE.fullmatch(service["image"])}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_fits_the_schema(path: Path) -> None:
    checked = [document for document in documents(path) if document["kind"] not in FOREIGN_KINDS]
    for document in checked:
        kubernetes_validate.validate(document, "1.37", strict=True)
    assert checked or path.stem == "service-monitor"


def test_a_manifest_that_does_not_fit_the_schema_is_found() -> None:
    deployment = only("Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinesProbe"):
        kubernetes_validate.validate(deployment, "1.37", strict=True)


@pytest.mark.parametrize(
    "path", sorted(set(DEPLOY.rglob("*.yaml")) | {DEPLOY / "README.md"}), ids=lambda path: path.name
)
def test_every_variable_named_exists(path: Path) -> None:
    known = {setting.name for setting in SCHEMA}
    assert set(re.findall(r"\bRECO_[A-Z_]*[A-Z]\b", path.read_text())) - known == set()


def test_the_settings_in_kubernetes_can_be_used_and_leave_time_to_drain() -> None:
    settings = read_settings(environment(SERVICE))
    assert (settings.artifacts, settings.log_format) == (Path("/artifacts"), "json")
    assert SERVICE_POD["terminationGracePeriodSeconds"] >= settings.drain_seconds + SLOWEST_STOP_SECONDS
    assert SERVICE_POD["terminationGracePeriodSeconds"] >= 2 * settings.drain_seconds
    # the address must be out of use before the drain is over
    noticed = SERVICE["readinessProbe"]["periodSeconds"] * SERVICE["readinessProbe"]["failureThreshold"]
    assert settings.drain_seconds > noticed


def test_the_init_container_checks_what_the_service_will_serve() -> None:
    assert service_parser().parse_args(CHECK["args"]).run.__name__ == "_check"
    for what in ("image", "env", "volumeMounts", "resources"):
        assert CHECK[what] == SERVICE[what]


def test_probes_and_ports_are_those_of_the_service() -> None:
    [port] = SERVICE["ports"]
    assert port == {"name": "http", "containerPort": Settings().port}
    assert f"EXPOSE {Settings().port}\n" in DOCKERFILE
    for probe, operation in (("startupProbe", "ready"), ("readinessProbe", "ready"), ("livenessProbe", "live")):
        assert SERVICE[probe]["httpGet"]["path"] == OPERATIONS[operation].path
        assert SERVICE[probe]["httpGet"]["port"] == port["name"]
    [service_port] = only("Service")["spec"]["ports"]
    [endpoint] = only("ServiceMonitor")["spec"]["endpoints"]
    assert (service_port["targetPort"], endpoint["port"]) == (port["name"], service_port["name"])
    assert endpoint["path"] == OPERATIONS["metrics"].path


def test_everything_selects_the_pods_of_the_service_alone() -> None:
    selectors = [
        only("Deployment")["spec"]["selector"]["matchLabels"],
        only("Service")["spec"]["selector"],
        only("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        SERVICE_POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ]
    for selector in selectors:
        chosen = [name for name, pod in PODS.items() if selector.items() <= pod["metadata"]["labels"].items()]
        assert chosen == ["jetmlett"]
    monitored = only("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert monitored.items() <= only("Service")["metadata"]["labels"].items()
    target = only("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", only("Deployment")["metadata"]["name"])


@pytest.mark.parametrize("name", PODS)
def test_a_pod_runs_as_the_user_of_the_image_and_asks_the_cluster_for_nothing(name: str) -> None:
    uid = re.search(r"useradd --uid (\d+)", DOCKERFILE)
    assert uid is not None
    spec = PODS[name]["spec"]
    user = int(uid[1])
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert f"USER {user}\n" in DOCKERFILE
    # with service links, a Service that is called reco would set RECO_PORT to tcp://...
    assert (spec["automountServiceAccountToken"], spec["enableServiceLinks"]) == (False, False)


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS.keys())
def test_a_container_has_no_privileges_and_known_resources(container: dict[str, Any]) -> None:
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {kind: set(amounts) for kind, amounts in container["resources"].items()} == {
        "requests": {"cpu", "memory"},
        "limits": {"cpu", "memory"},
    }


def test_only_the_builders_may_write_builds_and_counters_go_to_memory() -> None:
    writable = {
        name
        for name, pod in PODS.items()
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
        for mount in container["volumeMounts"]
        if mount["name"] == "artifacts" and not mount.get("readOnly")
    }
    assert writable == {"jetmlett-build-index", "jetmlett-sample-index", "jetmlett-apply-changes"}
    volumes = {volume["name"]: volume for volume in SERVICE_POD["volumes"]}
    [shared_memory] = [mount for mount in SERVICE["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    assert volumes[shared_memory["name"]]["emptyDir"]["medium"] == "Memory"
    assert volumes["artifacts"]["persistentVolumeClaim"]["readOnly"]


def test_claims_named_by_pods_exist() -> None:
    everything = [document for path in MANIFESTS for document in documents(path)]
    claims = {each["metadata"]["name"] for each in everything if each["kind"] == "PersistentVolumeClaim"}
    named = {
        volume["persistentVolumeClaim"]["claimName"]
        for pod in PODS.values()
        for volume in pod["spec"]["volumes"]
        if "persistentVolumeClaim" in volume
    }
    assert named == claims


def test_the_cron_job_calls_the_builder_with_options_it_knows() -> None:
    [container] = PODS["jetmlett-build-index"]["spec"]["containers"]
    assert container["command"] == ["python", "-m", "index_builder"]
    options = builder_parser().parse_args(container["args"])
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(options.products.parent), str(options.out)} == mounts


def test_what_applies_changes_is_one_script_for_kubernetes_and_compose() -> None:
    script = (DEPLOY / "apply-changes.sh").read_text()
    assert only("ConfigMap")["data"] == {"apply-changes.sh": script}
    [container] = PODS["jetmlett-apply-changes"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert container["command"] == [
        "sh",
        f"{mounts['script']}/apply-changes.sh",
        mounts["changes"],
        mounts["artifacts"],
    ]
    [document] = documents(DEPLOY / "compose.changes.yaml")
    service = document["services"]["apply-changes"]
    targets = [volume.split(":")[-2 if volume.endswith(":ro") else -1] for volume in service["volumes"]]
    assert service["entrypoint"] == ["sh", *targets]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """A directory where changes arrive, beside artifacts of thirty products."""
    publish(tmp_path / "artifacts")
    (tmp_path / "changes").mkdir()
    return tmp_path / "changes"


def apply_changes(inbox: Path) -> int:
    """Apply what has arrived, and return the exit code."""
    script, artifacts = DEPLOY / "apply-changes.sh", inbox.with_name("artifacts")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "ONCE": "1"}
    return subprocess.run(["sh", script, inbox, artifacts], cwd=ROOT, env=environment, check=False).returncode


@pytest.mark.slow
def test_changes_are_published_in_the_order_of_their_names_and_bad_ones_are_put_aside(inbox: Path) -> None:
    root = inbox.with_name("artifacts")
    write_lines(inbox / "2.jsonl", [{"id": "p1", "set": {"season": 7}}, {"id": "p2", "delete": True}])
    write_lines(inbox / "1 first.jsonl", [{"id": "p1", "set": {"season": 6}}])
    write_lines(inbox / "3.jsonl", [{"id": "p2", "delete": True}])
    write_lines(inbox / "4.jsonl", [{"id": "new", "name": "new", "vector": [1, 2, 3, 4, 5]}])
    write_lines(inbox / "ignored.txt", ["{"])
    assert apply_changes(inbox) == 0
    products = open_current(root).products
    assert products.positions(["p1", "p2", "new"]).tolist() == [1, -1, 30]
    assert products[1]["season"] == 7
    assert sorted(path.name for path in (inbox / "applied").iterdir()) == ["1 first.jsonl", "2.jsonl", "4.jsonl"]
    assert sorted(path.name for path in (inbox / "refused").iterdir()) == ["3.jsonl", "3.jsonl.txt"]
    assert "line 1: no product has the id 'p2'" in (inbox / "refused" / "3.jsonl.txt").read_text()
    assert sorted(path.name for path in inbox.iterdir()) == ["applied", "ignored.txt", "refused"]


@pytest.mark.slow
def test_changes_that_were_published_before_a_crash_are_not_published_again(inbox: Path) -> None:
    root = inbox.with_name("artifacts")
    write_lines(inbox / "1.jsonl", [{"id": "p2", "delete": True}])
    assert apply_changes(inbox) == 0
    published = current_build_id(root)
    (inbox / "applied" / "1.jsonl").rename(inbox / "1.jsonl")
    assert apply_changes(inbox) == 0
    assert current_build_id(root) == published
    assert [path.name for path in (inbox / "applied").iterdir()] == ["1.jsonl"]
    merged = merge(MergeRequest(root))
    assert merged is not None
    (inbox / "applied" / "1.jsonl").rename(inbox / "1.jsonl")
    assert apply_changes(inbox) == 0
    assert current_build_id(root) == merged.manifest.build_id
    assert [path.name for path in (inbox / "applied").iterdir()] == ["1.jsonl"]


BUILDER = """#!/bin/sh
# Takes two files on each base, and then says to merge first; a file that is called large is always too large.
echo "${3##*/} ${4##*/}" >> log
case $3 in
  --merge) echo 0 > count; echo '{}' > artifacts/build/manifest.json; exit 0 ;;
esac
count=$(cat count)
case $count,$4 in
  2,* | *large*) echo "error: artifacts: too large; merge first: python -m index_builder --merge" >&2; exit 1 ;;
esac
echo $((count + 1)) > count
echo '{"delta": {}}' > artifacts/build/manifest.json
"""


def test_a_file_that_a_merge_makes_room_for_is_applied_before_the_next_one(tmp_path: Path) -> None:
    for name in ("changes", "artifacts/build", "bin"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("1.jsonl", "2.csv", "3.jsonl.gz", "4 large.tsv", "5.parquet"):
        (tmp_path / "changes" / name).write_text(name)
    for name, text in (("artifacts/CURRENT", "build"), ("artifacts/build/manifest.json", "{}"), ("count", "0")):
        (tmp_path / name).write_text(f"{text}\n")
    (tmp_path / "bin" / "python").write_text(BUILDER)
    (tmp_path / "bin" / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "ONCE": "1"}
    command = ["sh", str(DEPLOY / "apply-changes.sh"), "changes", "artifacts"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, check=False, capture_output=True)
    assert (run.returncode, run.stderr) == (0, b"")
    assert (tmp_path / "log").read_text().splitlines() == [
        "--update 1.jsonl",
        "--update 2.csv",
        "--update 3.jsonl.gz",
        "--merge --out",
        "--update 3.jsonl.gz",
        "--update 4 large.tsv",
        "--merge --out",
        "--update 4 large.tsv",
        "--update 5.parquet",
    ]
    assert sorted(path.name for path in (tmp_path / "changes" / "refused").iterdir()) == [
        "4 large.tsv",
        "4 large.tsv.txt",
    ]
    assert len([*(tmp_path / "changes" / "applied").iterdir()]) == 4


@pytest.mark.parametrize("queries", [None, "the users.jsonl"])
def test_merges_are_measured_with_the_users_that_are_named(tmp_path: Path, queries: str | None) -> None:
    for name in ("changes", "artifacts/build", "bin"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "changes" / "1.jsonl").touch()
    (tmp_path / "artifacts" / "CURRENT").write_text("build\n")
    (tmp_path / "artifacts" / "build" / "manifest.json").touch()
    stub = tmp_path / "bin" / "python"
    stub.write_text("#!/bin/sh\nprintf '%s,' \"$@\" >> log\necho >> log\necho 'merge       due, as it is large'\n")
    stub.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stub.parent}:{os.environ['PATH']}", "ONCE": "1"}
    command = ["sh", str(DEPLOY / "apply-changes.sh"), "changes", "artifacts"]
    named = {"QUERIES": queries} if queries else {}
    subprocess.run(command, cwd=tmp_path, env=environment | named, check=True)
    merge_words = "-m,index_builder,--merge,--out,artifacts,--keep,10,"
    assert (tmp_path / "log").read_text().splitlines() == [
        "-m,index_builder,--update,changes/1.jsonl,--out,artifacts,--keep,10,",
        f"{merge_words}--queries,{queries}," if queries else merge_words,
    ]


@pytest.mark.slow
def test_changes_wait_where_the_artifacts_are_at_fault_and_a_merge_makes_room_for_more(inbox: Path) -> None:
    root = inbox.with_name("artifacts")
    base = current_build_id(root)
    rows = random_rows(np.random.default_rng(1), 100, 400, 5)
    write_lines(inbox / "1.jsonl", rows[:200])
    write_lines(inbox / "2.jsonl", [*rows[200:], {"id": "p1", "set": {"season": 7}}])
    write_lines(inbox / "3.jsonl", [{"id": "p1", "set": {"season": 8}}])
    (root / base).rename(root / "away")
    assert apply_changes(inbox) == 1
    assert {path.name for path in inbox.iterdir()} == {"1.jsonl", "2.jsonl", "3.jsonl", "applied", "refused"}
    (root / "away").rename(root / base)
    assert apply_changes(inbox) == 0
    assert len(list((inbox / "applied").iterdir())) == 3
    assert open_current(root).products[1]["season"] == 8
    assert base_of(root, current_build_id(root)) != base
    assert len(open_current(root).products) == 430


def test_one_revision_of_the_image_runs_everywhere() -> None:
    assert {container["image"] for container in CONTAINERS.values()} == {f"jetmlett:{VERSION}"}


def test_the_image_says_what_it_is() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', dockerfile))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert labels == {
        "title": project["name"],
        "description": project["description"],
        "version": VERSION,
        "revision": "${REVISION}",
    }
    assert dockerfile.index('ARG REVISION=""') < dockerfile.index("LABEL") < dockerfile.index("ENTRYPOINT")


def test_the_example_secret_is_the_one_that_the_service_reads() -> None:
    [keys] = [variable for variable in SERVICE["env"] if variable["name"] == "RECO_API_KEYS"]
    secret, reference = only("Secret"), keys["valueFrom"]["secretKeyRef"]
    assert (secret["metadata"]["name"], list(secret["stringData"])) == (reference["name"], [reference["key"]])
    assert reference["optional"]


def test_compose_starts_the_service_alone_unless_a_profile_is_asked_for(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose.items() if "profiles" not in service] == ["reco"]


def test_compose_confines_every_container_of_ours_and_lets_it_drain(our_services: dict[str, Any]) -> None:
    assert set(our_services) == {"reco", "reco-milvus", "publish"}
    for service in our_services.values():
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        grace = int(service["stop_grace_period"].removesuffix("s"))
        drain = int(service["environment"].get("RECO_DRAIN_SECONDS", 0))
        assert grace >= drain + SLOWEST_STOP_SECONDS
        assert "healthcheck" not in service or service["command"] == ["publish"]


def test_compose_gives_settings_that_can_be_used(our_services: dict[str, Any]) -> None:
    for service in our_services.values():
        given = {name: "" if value.startswith("$") else value for name, value in service["environment"].items()}
        settings = read_settings(given)
        assert [port.rpartition(":")[2] for port in service.get("ports", [str(settings.port)])] == [str(settings.port)]
    publish, milvus = our_services["publish"], our_services["reco-milvus"]
    assert service_parser().parse_args(publish["command"]).run.__name__ == "_publish"
    assert read_milvus(publish["environment"]) == read_settings({**milvus["environment"], "RECO_API_KEYS": ""}).milvus


def test_compose_builds_milvus_client_into_the_image_that_needs_it(our_services: dict[str, Any]) -> None:
    assert "ARG EXTRA_PACKAGES" in DOCKERFILE
    for name in ("reco-milvus", "publish"):
        package = our_services[name]["build"]["args"]["EXTRA_PACKAGES"]
        assert re.search(rf"^{package}==", (ROOT / "requirements-dev.txt").read_text(), re.MULTILINE)
    assert "args" not in our_services["reco"]["build"]


def test_compose_pins_the_images_of_others_and_mounts_what_exists(compose: dict[str, Any]) -> None:
    for service in compose.values():
        assert OUR_IMAGE.fullmatch(service["image"]) or re.search(r":\D*\d+[.-]\d+", service["image"])
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).is_dir()


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool, which runs the alerts' tests, is not installed")
def test_alerts_fire_when_they_should_and_only_then() -> None:
    rules = DEPLOY / "prometheus" / "alerts.test.yaml"
    run = subprocess.run(["promtool", "test", "rules", rules], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
