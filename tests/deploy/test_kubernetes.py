"""Kubernetes: the manifests agree with each other, with the code, and with docker-compose.yml."""

import re
import shutil
import subprocess
from ipaddress import ip_address, ip_network

import pytest
import yaml

import tinylm
from crawler.fetch.addresses import is_public
from tests.deploy.cluster import PARTS, ROOT, SERVICES, SETTINGS

FOLDER = ROOT / "deploy" / "k8s"
COMPONENT, NAME = "app.kubernetes.io/component", "app.kubernetes.io/name"
ADDRESSES = """
    1.1.1.1 8.8.8.8 93.184.216.34 192.0.1.1 2606:4700::1 2a00:1450::1
    0.0.0.0 10.0.0.1 10.96.0.10 100.64.0.1 127.0.0.1 169.254.169.254 172.16.0.1 172.31.255.255 192.168.1.1
    192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 255.255.255.255
    ::1 fc00::1 fd00:ec2::254 fe80::1 ff02::1 2001:db8::1 2001::1 3fff::1
"""


def read(name):
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def kustomization():
    return read("kustomization.yaml")


@pytest.fixture(scope="module")
def resources(kustomization):
    """Every resource by (kind, name)."""
    found = [
        resource
        for name in kustomization["resources"]
        for resource in yaml.safe_load_all((FOLDER / name).read_text())
    ]
    by_name = {(resource["kind"], resource["metadata"]["name"]): resource for resource in found}
    assert len(by_name) == len(found)
    return by_name


@pytest.fixture(scope="module")
def workloads(resources):
    """What runs, by name: the resource, its pod's template, its one container."""
    return {
        name: (resource, resource["spec"]["template"], resource["spec"]["template"]["spec"]["containers"][0])
        for (_, name), resource in resources.items()
        if "template" in resource.get("spec", {})
    }


def settings():
    lines = (FOLDER / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_file_is_listed_and_every_listed_file_is_there(kustomization):
    generated = kustomization["configMapGenerator"]
    listed = {"kustomization.yaml", *kustomization["resources"]}
    listed |= {name for one in generated for key in ("envs", "files") for name in one.get(key, [])}
    assert listed == {path.name for path in FOLDER.iterdir()}


def test_the_parts_are_those_of_the_compose_file(workloads):
    assert set(workloads) == set(SERVICES) == PARTS | {"redis"}


def test_selectors_match_the_pods_they_are_for_and_no_others(resources, workloads):
    labels = {name: template["metadata"]["labels"] for name, (_, template, _) in workloads.items()}
    for name, own in labels.items():
        assert own[COMPONENT] == name
        assert own[NAME] == ("tinylm" if name in PARTS else name)
    selecting = [workload for workload, *_ in workloads.values() if workload["kind"] != "Job"]
    for resource in selecting:
        assert resource["spec"]["selector"] == {"matchLabels": {COMPONENT: resource["metadata"]["name"]}}
    for (kind, name), resource in resources.items():
        if kind == "Service":
            assert resource["spec"]["selector"] == {COMPONENT: name}
            assert resource["spec"].get("type", "ClusterIP") == "ClusterIP"
            ports = [port["containerPort"] for port in workloads[name][2]["ports"]]
            assert ports == [port["port"] for port in resource["spec"]["ports"]]


def test_everything_referred_to_exists(resources, workloads, kustomization):
    there = {("ConfigMap", one["name"]) for one in kustomization["configMapGenerator"]} | set(resources)
    for workload, template, container in workloads.values():
        wanted = {("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", [])}
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", [])}
        for volume in volumes.values():
            if "configMap" in volume:
                wanted.add(("ConfigMap", volume["configMap"]["name"]))
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        if workload["kind"] == "StatefulSet":
            wanted.add(("Service", workload["spec"]["serviceName"]))
            volumes |= {
                claim["metadata"]["name"]: claim for claim in workload["spec"]["volumeClaimTemplates"]
            }
        assert wanted <= there
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    redis_host = re.fullmatch(r"redis://(\w+):6379/0", settings()["TINYLM_FRONTIER_REDIS_URL"])[1]
    assert ("Service", redis_host) in resources


def test_every_pod_is_as_restricted_as_a_pod_can_be(resources, workloads):
    assert resources["Namespace", "tinylm"]["metadata"]["labels"] == {
        "pod-security.kubernetes.io/enforce": "restricted"
    }
    for _, template, container in workloads.values():
        pod = template["spec"]
        assert len(pod["containers"]) == 1
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_our_pods_run_as_the_image_s_user(workloads):
    user, group = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE).groups()
    for name in PARTS:
        context = workloads[name][1]["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == (int(user), int(group))


def test_every_pod_has_limits_and_what_stays_up_is_probed(workloads):
    for name, (_, _, container) in workloads.items():
        assert set(container["resources"]["requests"]) == {"cpu", "memory"}
        assert container["resources"]["limits"]["memory"]
        assert name == "seed" or "livenessProbe" in container


def test_a_pod_has_the_time_to_end_and_the_heartbeat_that_it_has_under_compose(workloads):
    for name in ("redis", "worker", "walker"):
        grace = workloads[name][1]["spec"]["terminationGracePeriodSeconds"]
        assert f"{grace}s" == SERVICES[name]["stop_grace_period"]
        probe = workloads[name][2]["livenessProbe"]["exec"]["command"]
        assert SERVICES[name]["healthcheck"]["test"] == ["CMD-SHELL", probe[-1]]


def test_redis_is_told_what_it_is_told_under_compose(workloads):
    asked = [re.sub(r"\$\{\w+:-(\w+)}", r"\1", argument) for argument in SERVICES["redis"]["command"]]
    assert workloads["redis"][2]["args"] == asked


def test_every_setting_is_one_that_exists_and_nobody_is_met_without_a_name():
    assert set(settings()) <= SETTINGS
    assert settings()["TINYLM_CRAWL_USER_AGENT"] == ""


def test_every_image_is_of_one_version(workloads, kustomization):
    [ours] = kustomization["images"]
    assert ours == {"name": "tinylm", "newTag": tinylm.__version__}
    for name, (_, _, container) in workloads.items():
        assert container["image"] == ("tinylm" if name in PARTS else SERVICES["redis"]["image"])


def test_one_walker_writes_and_the_dashboard_reads_on_its_node(workloads):
    deployment, _, container = workloads["walker"]
    assert (deployment["spec"]["replicas"], deployment["spec"]["strategy"]) == (1, {"type": "Recreate"})
    _, template, reader = workloads["dashboard"]
    [term] = template["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"] == {"matchLabels": {COMPONENT: "walker"}}
    mounts = [
        next(mount for mount in one["volumeMounts"] if mount["name"] == "crawl")
        for one in (container, reader)
    ]
    assert mounts[0] == {"name": "crawl", "mountPath": "/data"}
    assert mounts[1] == {"name": "crawl", "mountPath": "/data", "readOnly": True}


# Who may talk to whom


def test_nothing_is_let_through_that_is_not_named(resources):
    spec = resources["NetworkPolicy", "nobody"]["spec"]
    assert spec == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_only_our_pods_reach_redis_and_they_reach_no_other_port_of_it(resources):
    incoming = [r["spec"] for (kind, _), r in resources.items() if kind == "NetworkPolicy"]
    [admitting] = [spec for spec in incoming if spec.get("ingress")]
    assert admitting["podSelector"] == {"matchLabels": {COMPONENT: "redis"}}
    [rule] = admitting["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {NAME: "tinylm"}}}]
    assert rule["ports"] == [{"protocol": "TCP", "port": 6379}]


def test_only_workers_leave_the_cluster_and_only_for_what_the_guard_calls_public(resources):
    blocks = {
        (name, block["ipBlock"]["cidr"]): block["ipBlock"]
        for (kind, name), resource in resources.items()
        if kind == "NetworkPolicy"
        for rule in resource["spec"].get("egress", [])
        for block in rule["to"]
        if "ipBlock" in block
    }
    web = [block for (name, _), block in blocks.items() if name == "workers-to-the-web"]
    assert {cidr for name, cidr in blocks if name != "workers-to-the-web"} == {"169.254.20.10/32"}
    assert resources["NetworkPolicy", "workers-to-the-web"]["spec"]["podSelector"] == {
        "matchLabels": {COMPONENT: "worker"}
    }
    allowed = [(ip_network(b["cidr"]), [ip_network(c) for c in b["except"]]) for b in web]

    def lets_through(address):
        return any(
            address.version == network.version
            and address in network
            and not any(address in excepted for excepted in excluded)
            for network, excluded in allowed
        )

    for text in ADDRESSES.split():
        assert lets_through(ip_address(text)) == is_public(ip_address(text)), text
    assert not lets_through(ip_address("2002:7f00:1::1"))
    assert not lets_through(ip_address("64:ff9b::a00:1"))


# What the tool makes of them


def kustomize_command():
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            return command
    return None


@pytest.mark.skipif(not kustomize_command(), reason="neither kustomize nor kubectl is on PATH")
def test_kustomize_builds_them(resources, kustomization):
    built = subprocess.run(
        [*kustomize_command(), str(FOLDER)], capture_output=True, text=True, check=True
    ).stdout
    made = list(yaml.safe_load_all(built))
    assert len(made) == len(resources) + len(kustomization["configMapGenerator"])
    assert {one["metadata"].get("namespace", one["metadata"]["name"]) for one in made} == {"tinylm"}
    images = set(re.findall(r"image: (\S+)", built))
    assert images == {f"tinylm:{tinylm.__version__}", SERVICES["redis"]["image"]}
    config = {one["metadata"]["name"] for one in made if one["kind"] == "ConfigMap"}
    assert set(re.findall(r"(?:configMapRef|configMap):\s+name: (\S+)", built)) == config
