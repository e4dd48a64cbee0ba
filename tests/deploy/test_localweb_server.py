"""The local web inside this process: sites, settings, sockets, a server in a loop."""

import asyncio
import os
import re
from pathlib import Path

import pytest

from deploy.demo.sites import Web, discover
from deploy.demo.web import LocalWeb, LocalWebConfig, LocalWebError, listen
from tinylm.errors import ConfigError


def test_an_unknown_package_is_one_clear_error():
    with pytest.raises(ConfigError, match="no-such-package"):
        discover(["rich", "no-such-package"])


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ConfigError, match=f"port = {port}"):
        LocalWebConfig(port=port)


@pytest.mark.parametrize(("header", "status"), [(b"Host: rich.test\r\n", b"200"), (b"", b"421")])
def test_the_server_runs_within_a_loop_and_wants_a_host_header(header, status):
    async def ask() -> bytes:
        local = LocalWeb(LocalWebConfig(packages="rich"))
        await local.start()
        try:
            address = local.directory()["hosts"]["rich.test"]["address"]
            reader, writer = await asyncio.open_connection(address, local.port)
            writer.write(b"GET / HTTP/1.0\r\n" + header + b"\r\n")
            answer = await reader.read()
            writer.close()
            await writer.wait_closed()
            return answer
        finally:
            await local.stop()

    assert asyncio.run(ask()).startswith(b"HTTP/1.0 " + status)


def test_a_second_web_in_the_same_process_cannot_take_the_port_of_the_first():
    sockets = listen(0)
    try:
        with pytest.raises(LocalWebError, match="taken"):
            listen(sockets[0].getsockname()[1])
    finally:
        for listener in sockets:
            listener.close()


def test_it_listens_on_the_address_it_is_given_and_says_if_that_is_not_ours():
    [listener] = listen(0, "127.0.0.1")
    with listener:
        assert listener.getsockname()[0] == "127.0.0.1"
    with pytest.raises(LocalWebError, match=r"cannot listen on 192\.0\.2\.1"):
        listen(0, "192.0.2.1")


def test_pages_are_of_public_modules_only():
    sites = {site.host: site for site in discover(["rich", "hypothesis", "python"])}
    names = [name for site in sites.values() for name in site.modules]
    assert "rich.text" in names
    assert "statistics" in sites["python.test"].modules
    assert not [name for name in names if re.search(r"(^|\.)(_|tests?(\.|$))", name)]
    assert all(
        path.suffix == ".py" and os.access(path, os.R_OK)
        for s in sites.values()
        for path in s.modules.values()
    )


def test_a_name_leads_to_the_longest_module_that_begins_it():
    web = Web(discover(["rich"]))
    assert web.module("rich.text.Text.append") == ("rich.text", "Text.append")
    assert web.module("email.message") == ("email.message", "")
    assert web.host_of["email.message"] == "slow.test"
    assert web.module("nowhere.at.all") is None


def test_an_address_of_a_project_leads_to_its_host():
    web = Web(discover(["rich", "python"]))
    assert web.home("https://github.com/Textualize/rich/issues?q=1") == "rich.test"
    assert web.home("https://pypi.org/project/rich/") == "rich.test"
    assert web.home("http://docs.python.org/3/library/os.html#os.path") == "python.test"
    assert web.home("https://github.com/") is None


def test_those_who_require_a_site_are_counted():
    dependents = Web(discover(["rich", "markdown-it-py", "python"])).dependents
    assert dependents["markdown-it-py.test"] == 1
    assert dependents["python.test"] > dependents["rich.test"] == 0


def test_a_port_that_takes_rights_is_one_clear_error():
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        pytest.skip("anybody may listen on port 80 here")
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(LocalWebError, match=r"cannot listen on 127\.0\.0\.2 port 80: Permission denied"):
            listen(80)
    finally:
        os.seteuid(me)
