"""The cluster: its files agree with the code, and on an engine it survives the loss of any of its parts."""

import json
import os
import re
import shutil
import subprocess
import time
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from crawler.config import CrawlConfig, FrontierConfig
from crawler.frontier import Frontier, connect
from crawler.frontier.server import EmbeddedServer
from crawler.seeds.seed import Seed
from deploy.cli.app import app
from deploy.crawl import attach, limits_from_now, open_frontier
from deploy.demo.hosts import build_hosts
from deploy.demo.sites import Web, discover
from tests.deploy.cluster import COMPOSE, PARTS, ROOT, SERVICES, SETTINGS

OVERRIDE = "TINYLM_TEST_COMPOSE_OVERRIDE"
PACKAGES = ["aiohttp", "fastapi", "lxml", "pydantic", "redis", "requests", "rich", "scrapy", "starlette"]
SUBNET, WEB = "10.213.77.0/24", "10.213.77.10"
PAGES, MORE_PAGES = 300, 450


# What the files say


def test_the_compose_file_uses_only_what_both_generations_of_compose_know():
    assert {key for key in COMPOSE if not key.startswith("x-")} == {"services", "volumes"}
    assert set(SERVICES) == {"redis", *PARTS}
    for service in SERVICES.values():
        assert not {"container_name", "deploy", "develop", "profiles", "pull_policy"} & set(service)


def test_only_the_dashboard_is_published_and_only_on_loopback():
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"dashboard"}
    assert all(port.startswith("127.0.0.1:") for port in published["dashboard"])


def test_redis_refuses_rather_than_forgets_and_keeps_what_it_was_told():
    service = SERVICES["redis"]
    options = dict(zip(service["command"][1::2], service["command"][2::2], strict=True))
    assert (options["--appendonly"], options["--appendfsync"]) == ("yes", "everysec")
    assert options["--maxmemory-policy"] == "noeviction"
    assert int(options["--set-max-intset-entries"]) >= 4096
    assert service["volumes"] == ["redis:/data"]


def test_every_service_is_limited_unprivileged_and_read_only():
    for name, service in SERVICES.items():
        assert service["mem_limit"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["restart"] == ("no" if name == "seed" else "unless-stopped")
        assert service.get("init") is (None if name == "redis" else True)
    assert SERVICES["redis"]["user"] == "redis"


def test_whatever_stays_up_has_a_health_check():
    checked = {name for name, service in SERVICES.items() if "healthcheck" in service}
    assert checked == set(SERVICES) - {"seed"}


def test_every_setting_passed_on_is_one_that_exists():
    for name in PARTS:
        assert set(SERVICES[name]["environment"]) <= SETTINGS | {"TINYLM_SEEDS", "TINYLM_LOG"}


def test_the_image_has_every_package_and_no_torch_and_no_root():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{package}" for package in packages} <= set(allowed)
    assert allowed[1] == "*"
    dockerfile = (ROOT / "Dockerfile").read_text()
    extras = re.search(r'^ARG EXTRAS="(.*)"$', dockerfile, re.MULTILINE)[1].split(",")
    assert not [
        d for extra in extras for d in project["project"]["optional-dependencies"][extra] if "torch" in d
    ]
    assert re.search(r"^USER [1-9]", dockerfile, re.MULTILINE)
    assert dockerfile.index("--requirement") < dockerfile.index("COPY . .")


# How it begins


@pytest.fixture
def frontier(tmp_path):
    with EmbeddedServer(tmp_path / "redis", memory="64mb") as server:
        yield Frontier(connect(server.url), FrontierConfig(data=tmp_path))


def test_a_crawl_that_begins_again_keeps_the_rules_that_nobody_named(frontier, monkeypatch):
    def begin(*options):
        url = frontier.client.connection_pool.connection_kwargs["path"]
        given = ["https://a.test/", "--user-agent", "lab (+https://lab.test)", "--redis-url", f"unix://{url}"]
        with pytest.raises(SystemExit):
            app(["begin", *given, *options])
        frontier.heed_rules()
        return frontier.limits().pages, frontier.config.delay, frontier.config.attempts

    assert begin("--pages", "10", "--delay", "7", "--attempts", "5") == (10, 7.0, 5)
    assert begin("--pages", "20") == (20, 7.0, 5), "no worker asks sooner because somebody raised a limit"
    assert begin("--delay", "9")[1:] == (9.0, 5)
    monkeypatch.setenv("TINYLM_FRONTIER_DELAY", "1")
    assert begin()[1:] == (1.0, 5), "the default, but named"


def test_who_only_looks_or_brings_seeds_sets_no_rules(tmp_path):
    config = FrontierConfig(data=tmp_path)
    with EmbeddedServer(tmp_path / "redis", memory="64mb") as server:
        attach(config)
        with open_frontier(config, begin=False) as opened:
            opened.put_seeds([Seed("https://a.test/", 1.0, "test")])
        worker = Frontier(connect(server.url), replace(config, delay=30.0))
        assert worker.config.delay == 30.0
        assert attach(config).config.delay == 30.0


def test_a_worker_sets_limits_only_where_there_are_none(frontier):
    assert frontier.set_limits_if_none(limits_from_now(CrawlConfig(pages=10, gigabytes=2, hours=1)))
    assert not frontier.set_limits_if_none(limits_from_now(CrawlConfig(pages=99)))
    limits = frontier.limits()
    assert (limits.pages, limits.bytes) == (10, 2_000_000_000)
    assert 3590 < limits.until - time.time() <= 3600


# What an engine does


def compose_command():
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            answer = subprocess.run([*command, "version"], capture_output=True, check=False)
            if answer.returncode == 0:
                return command
    return None


def engine_answers():
    docker = shutil.which("docker")
    return bool(docker) and not subprocess.run([docker, "info"], capture_output=True, check=False).returncode


class Cluster:
    """The stack of docker-compose.yml in a network of its own with no way out, and a web to crawl in it."""

    def __init__(self, command, folder):
        self._command = command
        override = folder / "override.yml"
        override.write_text(yaml.safe_dump(self._override()))
        (folder / "seeds.txt").write_text("".join(f"http://{package}.test/\n" for package in PACKAGES))
        self._files = [ROOT / "docker-compose.yml", override]
        if extra := os.environ.get(OVERRIDE):
            self._files.append(Path(extra).resolve())
        self._project = f"tinylm-test-{os.getpid()}"
        self._environment = {
            **os.environ,
            "TINYLM_IMAGE": "tinylm-test",
            "TINYLM_CLUSTER": str(folder),
            "TINYLM_DASHBOARD_PORT": "0",
            "TINYLM_CRAWL_USER_AGENT": "tinylm-test (+http://rich.test/)",
            "TINYLM_CRAWL_PAGES": str(PAGES),
            "TINYLM_CRAWL_DISK_RESERVE_GIGABYTES": "0.5",
            "TINYLM_FRONTIER_DELAY": "0.3",
        }

    def _override(self):
        hosts = build_hosts(Web(discover(PACKAGES)))
        crawl = {
            "TINYLM_CRAWL_ALLOWED_NETWORKS": f"{WEB}/32:8000",
            "TINYLM_CRAWL_RESOLVE": " ".join(f"{host}={WEB}:8000" for host in sorted(hosts)),
            "TINYLM_FRONTIER_LEASE_SECONDS": "25",
            "TINYLM_CRAWL_TIMEOUT": "5",
            "TINYLM_CRAWL_EXTRACT_TIMEOUT": "4",
            "TINYLM_CRAWL_IP_CONCURRENCY": "0",  # all hosts of this web are one address
            "TINYLM_CRAWL_IP_DELAY": "0",
            "TINYLM_FRONTIER_LATENCY_FACTOR": "0",
        }
        check = "import socket; socket.create_connection(('127.0.0.1', 8000))"
        web = {
            "image": "tinylm-test",
            "entrypoint": ["python", "-m", "deploy.demo.web", "--bind", "0.0.0.0", "--port", "8000"],  # noqa: S104
            "command": ["--packages", ",".join(PACKAGES)],
            "init": True,
            "networks": {"default": {"ipv4_address": WEB}},
            "healthcheck": {"test": ["CMD", "python", "-c", check], "interval": "1s", "retries": 60},
        }
        services = {
            "web": web,
            "seed": {"environment": crawl, "depends_on": {"web": {"condition": "service_healthy"}}},
            "worker": {"environment": crawl, "dns": ["127.0.0.1"]},
            "walker": {"environment": {**crawl, "TINYLM_WALK_SHARD_SECONDS": "5"}},
        }
        network = {"internal": True, "ipam": {"config": [{"subnet": SUBNET}]}}
        return {"services": services, "networks": {"default": network}}

    def __call__(self, *arguments, check=True, **environment):
        files = [part for file in self._files for part in ("-f", str(file))]
        argv = [*self._command, "-p", self._project, *files, *arguments]
        done = subprocess.run(
            argv,
            cwd=ROOT,
            env={**self._environment, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
        return done

    def in_dashboard(self, *argv):
        return self("exec", "-T", "dashboard", *argv).stdout

    def status(self):
        """What the dashboard shows of the crawl."""
        code = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8000/api/status').read().decode())"
        return json.loads(self.in_dashboard("python", "-c", code))["crawl"]

    def wait(self, seconds, true_of):
        give_up = time.monotonic() + seconds
        while not true_of(status := self.status()):
            assert time.monotonic() < give_up, f"{status}\n{self('logs', '--tail', '40').stdout}"
            time.sleep(1)
        return status

    def finish(self, pages):
        """Wait for the limit of `pages`; not one more was fetched."""
        status = self.wait(180, lambda status: status["reached"].startswith(f"{pages} pages"))
        assert status["fetched"] == pages
        return status

    def containers(self, service):
        return self("ps", "-q", service).stdout.split()


@pytest.fixture
def cluster(tmp_path):
    command = compose_command()
    if not command or not engine_answers():
        pytest.skip("no Docker engine answers, or neither `docker compose` nor docker-compose is here")
    tmp_path.chmod(0o755)
    up = Cluster(command, tmp_path)
    try:
        yield up
    finally:
        up("down", "-v", "--remove-orphans", "-t", "5")


def docker(*arguments):
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def process(container):
    """The process of `container` that does its work, not its init: what the kernel says of it."""
    pid = docker("inspect", "-f", "{{.State.Pid}}", container)
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    lines = Path(f"/proc/{children[0] if children else pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def assert_confined(container):
    state = json.loads(docker("inspect", container))[0]
    kernel = process(container)
    assert kernel["Uid"].split()[0] not in ("", "0")
    assert int(kernel["CapEff"], 16) == int(kernel["CapBnd"], 16) == 0
    assert kernel["NoNewPrivs"] == "1"
    assert state["HostConfig"]["Memory"] > 0
    touch = ["docker", "exec", "-u", "root", container, "touch", "/x"]
    refused = subprocess.run(touch, capture_output=True, text=True, check=False)
    assert "Read-only file system" in refused.stderr
    return state


def assert_ended_well(containers):
    for container in containers:
        assert docker("inspect", "-f", "{{.State.ExitCode}}", container) == "0", docker("logs", container)


def healthy(container):
    return docker("inspect", "-f", "{{.State.Health.Status}}", container) == "healthy"


def walking(container):
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return " walking " in done.stderr


READ_BACK = """
from shards.reader import ShardReader
reader = ShardReader("/data/shards", split="all")
ids = [row["id"] for group in reader.row_groups for row in reader.documents(group, ("id",))]
print(len(ids), len(set(ids)), reader.manifest.rows)
"""


@pytest.mark.release
@pytest.mark.system
@pytest.mark.timeout(900)
def test_a_cluster_finishes_and_again_though_a_worker_redis_and_the_walker_are_killed(cluster):
    cluster("build")
    refused = cluster("run", "--rm", "seed", TINYLM_CRAWL_USER_AGENT="nobody", check=False)
    assert refused.returncode == 2
    assert "needs a contact" in refused.stdout + refused.stderr
    assert no_torch("tinylm-test")

    cluster("up", "-d", "--no-build", "--scale", "worker=3", "--scale", "walker=2")
    workers, walkers = cluster.containers("worker"), cluster.containers("walker")
    assert (len(workers), len(walkers)) == (3, 2)
    cluster.wait(120, lambda status: status.get("fetched", 0) >= 40)
    workers_that_are_asked_to_end_leave_nothing_leased(cluster, workers)
    parts = [*workers, *walkers, *cluster.containers("redis"), *cluster.containers("dashboard")]
    for container in parts:
        bindings = assert_confined(container)["HostConfig"]["PortBindings"] or {}
        published = [(port, one["HostIp"]) for port, those in bindings.items() for one in those]
        assert published == ([("8000/tcp", "127.0.0.1")] if container == parts[-1] else [])
    cluster.finish(PAGES)
    wait_for(30, lambda: all(healthy(container) for container in parts))

    cluster("run", "--rm", "seed", TINYLM_CRAWL_PAGES=str(MORE_PAGES))
    cluster.wait(60, lambda status: status["fetched"] >= PAGES + 20)
    [walker] = [container for container in walkers if walking(container)]
    docker("kill", workers[0], walker)
    cluster("kill", "redis")
    cluster("start", "redis")
    status = cluster.finish(MORE_PAGES)
    assert all(walking(container) for container in walkers), "nobody took over"
    expected = {"forbidden_network", "robots", "status_429", "dns", "lease_expired", "timeout"}
    assert status["not_fetched"].keys() <= expected

    cluster("stop", "worker", "walker")
    assert_ended_well({*workers[1:], *walkers} - {walker})
    written, distinct, listed = map(int, cluster.in_dashboard("python", "-c", READ_BACK).split())
    assert written == distinct == listed > 50
    assert "every file is as it was committed" in cluster.in_dashboard(
        "tinylm", "shards", "verify", "/data/shards"
    )


def no_torch(image):
    code = "from importlib.util import find_spec; print(find_spec('torch'))"
    return docker("run", "--rm", "--entrypoint", "python", image, "-c", code) == "None"


def workers_that_are_asked_to_end_leave_nothing_leased(cluster, workers):
    """Though the web hangs; and with all of them gone nobody is left to reap."""
    [web] = cluster.containers("web")
    docker("pause", web)
    before = cluster.wait(30, lambda status: status["idle"]["in_flight"] >= 5)
    cluster("stop", "worker")
    docker("unpause", web)
    assert_ended_well(workers)
    after = cluster.wait(5, lambda status: not status["idle"]["in_flight"])
    assert not after["reached"]
    assert after["not_fetched"].get("lease_expired") == before["not_fetched"].get("lease_expired")
    cluster("start", "worker")


def wait_for(seconds, check):
    give_up = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < give_up
        time.sleep(0.5)
