"""The local web over real HTTP: a server in a process of its own, restricted to three distributions."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from html import unescape
from pathlib import Path

import pytest
from protego import Protego

from tinylm.processes import start as start_child

PACKAGES = "rich,markdown-it-py,hypothesis"
AGENT = "tinylm-test"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Client:
    """Asks the running local web, at the addresses its ready file names."""

    def __init__(self, directory: dict, log: Path) -> None:
        self.directory = directory
        self._log = log
        self.where = dict(line.split("=") for line in directory["resolve"])

    def ask(self, host: str, path: str = "/", method: str = "GET", **headers: str) -> Answer:
        address, port = self.where.get(host, next(iter(self.where.values()))).split(":")
        connection = http.client.HTTPConnection(address, int(port), timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": host, "User-Agent": AGENT, **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def logged(self, host: str) -> list[dict]:
        entries = [json.loads(line) for line in self._log.read_text().splitlines()]
        return [entry for entry in entries if entry["host"] == host]


def start(directory: Path) -> subprocess.Popen:
    log, ready = directory / "access.jsonl", directory / "ready.json"
    command = [sys.executable, "-m", "deploy.demo.web", "--packages", PACKAGES]
    return start_child([*command, "--access-log", str(log), "--ready-file", str(ready)])


def wait_for(path: Path, process: subprocess.Popen) -> dict:
    while not path.exists():
        assert process.poll() is None, "the server ended before it was ready"
        time.sleep(0.02)
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    directory = tmp_path_factory.mktemp("localweb")
    process = start(directory)
    try:
        yield Client(wait_for(directory / "ready.json", process), directory / "access.jsonl")
    finally:
        process.terminate()
        process.wait(30)


def links(html: str) -> list[str]:
    return [unescape(link) for link in re.findall(r'<a href="([^"]+)"', html)]


def test_every_host_of_the_ready_file_answers_at_the_address_it_names(web):
    assert {"rich.test", "hypothesis.test", "mirror.test", "calendar.test"} <= set(web.where)
    assert set(web.where) == set(web.directory["hosts"])
    kinds = {entry["kind"] for entry in web.directory["hosts"].values()}
    assert kinds == {"documentation", "slow", "busy", "private", "mirror", "trap", "redirects"}
    for host in web.where:
        assert web.ask(host).status in (200, 302, 429), host


def test_a_home_page_shows_the_readme_says_what_it_is_and_links_to_what_it_requires(web):
    answer = web.ask("rich.test")
    assert "Rich is a Python library for" in answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert '<html lang="en">' in answer.text
    assert "<title>rich: " in answer.text
    assert {"/rich.html", "http://markdown-it-py.test/"} <= set(links(answer.text))


def test_a_module_page_has_docstrings_signatures_and_base_classes(web):
    html = web.ask("rich.test", "/rich.text.html").text
    assert "<h2>Text</h2>" in html
    assert "<code>class Text(JupyterMixin)</code>" in html
    assert '<code>def copy_styles(self, text: "Text") -&gt; None</code>' in html
    assert '<a href="/rich.jupyter.html#JupyterMixin">JupyterMixin</a>' in html
    assert "Copy styles from another Text instance." in html


def test_a_module_page_links_to_what_it_imports_across_hosts_and_to_its_parents_and_children(web):
    found = links(web.ask("rich.test", "/rich.markdown.html").text)
    assert {"http://markdown-it-py.test/markdown_it.html", "/rich.console.html"} <= set(found)
    assert "/markdown_it.rules_block.html" in links(web.ask("markdown-it-py.test", "/markdown_it.html").text)
    assert "/markdown_it.html" in links(web.ask("markdown-it-py.test", "/markdown_it.rules_block.html").text)


def test_links_within_a_host_lead_to_pages(web):
    queue, seen = ["/"], {"/"}
    for path in queue:
        answer = web.ask("markdown-it-py.test", path)
        assert answer.status == 200, path
        assert "</html>" in answer.text[-10:]
        within = (link.partition("#")[0] for link in links(answer.text) if link.startswith("/"))
        fresh = sorted({link for link in within if link} - seen)
        seen.update(fresh)
        queue += fresh
    assert {
        "/modindex.html",
        "/markdown_it.main.html",
        "/src/markdown_it.main.html",
    } <= seen


def test_absolute_links_name_only_hosts_of_this_web(web):
    for host, path in (
        ("rich.test", "/"),
        ("hypothesis.test", "/"),
        ("hypothesis.test", "/hypothesis.core.html"),
    ):
        absolute = [link for link in links(web.ask(host, path).text) if not link.startswith(("/", "#"))]
        assert absolute
        assert {link.split("/")[2] for link in absolute} <= set(web.where)


def test_a_fragment_names_a_section_of_the_page_it_leads_to_and_a_source_is_listed(web):
    html = web.ask("rich.test", "/rich.text.html").text
    link = next(link for link in links(html) if link.endswith("#JupyterMixin"))
    page, _, fragment = link.partition("#")
    assert f'id="{fragment}"' in web.ask("rich.test", page).text
    assert "Defines characters to render boxes." in web.ask("rich.test", "/src/rich.box.html").text


def test_head_gives_the_headers_of_get_and_no_body(web):
    head, get = (web.ask("rich.test", "/rich.box.html", method) for method in ("HEAD", "GET"))
    assert (head.status, head.body) == (200, b"")
    same = ("content-length", "content-type")
    assert [head.headers[name] for name in same] == [get.headers[name] for name in same]


def test_an_unknown_host_is_misdirected_and_a_port_in_the_host_header_is_ignored(web):
    assert web.ask("example.com").status == 421
    assert web.ask("rich.test:1234").status == 200
    assert web.ask("RICH.test.").status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/nothing.html",
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/src/../../../etc/passwd.html",
        "/src/%2Fetc%2Fpasswd.html",
        "/rich.text.html%00.png",
        "/src/rich%2Ftext.html",
    ],
)
def test_what_is_not_a_page_is_not_found(web, path):
    assert web.ask("rich.test", path).status == 404


def test_percent_encoding_names_the_same_page(web):
    assert web.ask("rich.test", "/rich%2Etext.html").body == web.ask("rich.test", "/rich.text.html").body


def test_the_mirror_has_the_same_bytes_as_one_of_the_originals(web):
    for path in links(web.ask("mirror.test").text)[::20]:
        copy = web.ask("mirror.test", path)
        originals = [web.ask(f"{name}.test", path) for name in PACKAGES.split(",")]
        assert [original.body for original in originals if original.status == 200] == [copy.body]


def test_robots_of_the_private_host_forbid_all_but_a_part_and_it_serves_what_is_asked_all_the_same(web):
    robots = Protego.parse(web.ask("private.test", "/robots.txt").text)
    assert not robots.can_fetch("http://private.test/", AGENT)
    assert not robots.can_fetch("http://private.test/http.client.html", AGENT)
    assert robots.can_fetch("http://private.test/xml.dom.html", AGENT)
    assert "HTTP/1.1 client library" in web.ask("private.test", "/http.client.html").text
    assert web.logged("private.test")[-1]["path"] == "/http.client.html"


def test_exactly_one_host_asks_for_a_delay_and_some_have_no_robots(web):
    answers = {host: web.ask(host, "/robots.txt") for host in web.where}
    delays = [
        Protego.parse(answer.text).crawl_delay(AGENT) for answer in answers.values() if answer.status == 200
    ]
    assert [delay for delay in delays if delay is not None] == [1.0]
    assert {answer.status for answer in answers.values()} <= {200, 404}


def test_the_busy_host_refuses_every_fifth_request_and_the_log_says_until_when(web):
    answers = [web.ask("busy.test", "/logging.html") for _ in range(10)]
    refused = [answer for answer in answers if answer.status == 429]
    assert len(refused) == 2
    assert {answer.headers["retry-after"] for answer in refused} == {"3"}
    assert {answer.status for answer in answers} == {200, 429}
    entries = web.logged("busy.test")
    assert {entry.get("retry_after") for entry in entries if entry["status"] == 429} == {3}
    assert all("retry_after" not in entry for entry in entries if entry["status"] == 200)


def test_the_slow_host_answers_many_at_once_after_its_delay(web):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: web.ask("slow.test", "/json.html"), range(8)))
    assert {answer.status for answer in answers} == {200}
    entries = web.logged("slow.test")[-8:]
    assert all(entry["seconds"] >= 2 for entry in entries)
    assert max(entry["t"] for entry in entries) < min(entry["t"] + entry["seconds"] for entry in entries)


def test_the_calendar_never_ends(web):
    path = web.ask("calendar.test").headers["location"]
    seen = set()
    for _ in range(40):
        answer = web.ask("calendar.test", path)
        assert answer.status == 200
        seen.add(path)
        path = links(answer.text)[1]
    assert len(seen) == 40
    assert any("?view=" in link for link in links(answer.text))


def test_a_view_of_a_view_of_the_calendar_is_a_new_address(web):
    path = "/2024/02/29.html"
    for _ in range(3):
        path = next(link for link in links(web.ask("calendar.test", path).text) if "view=week" in link)
    assert path.count("view=") == 3


@pytest.mark.parametrize("path", ["/2024/02/30.html", "/2024/13.html", "/0000/01/01.html"])
def test_the_calendar_has_no_days_that_are_none(web, path):
    assert web.ask("calendar.test", path).status == 404


@pytest.mark.parametrize("path", ["/0001/01/01.html", "/9999/12/31.html", "/9999/12.html"])
def test_the_calendar_has_a_first_and_a_last_day(web, path):
    assert web.ask("calendar.test", path).status == 200


def test_redirects_lead_to_forbidden_addresses_in_a_loop_and_through_a_chain(web):
    def location(path: str) -> str:
        return web.ask("redirects.test", path).headers["location"]

    assert location("/metadata") == "http://169.254.169.254/"
    assert location("/database") == "http://127.0.0.1:6379/"
    assert location(location("/loop/a")) == "/loop/a"
    assert location(location(location("/chain/1"))) == "/"


def test_the_access_log_says_who_asked_what_when(web):
    before = time.time()
    web.ask("rich.test", "/rich.box.html?a=%20b")
    entry = web.logged("rich.test")[-1]
    assert entry["path"] == "/rich.box.html?a=%20b"
    assert (entry["method"], entry["status"], entry["agent"]) == ("GET", 200, AGENT)
    assert entry["address"].startswith("127.")
    assert before - 1 < entry["t"] <= time.time()
    assert entry["seconds"] >= 0


def test_sigterm_ends_the_server_cleanly_and_frees_its_port(tmp_path):
    process = start(tmp_path)
    port = wait_for(tmp_path / "ready.json", process)["port"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    for last in range(2, 10):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((f"127.0.0.{last}", port))


def test_a_taken_port_is_one_clear_line(tmp_path, web):
    arguments = ["--packages", "rich", "--port", str(web.directory["port"])]
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo.web", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot listen on 127.0.0.2 port {web.directory['port']}: ")
    assert done.stderr.count("\n") == 1
