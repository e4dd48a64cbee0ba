"""The local web inside this process: sites, settings, sockets, a server in a loop."""

import asyncio
import os
import re

import pytest

from deploy.demo.sites import Web, discover
from deploy.demo.web import LocalWeb, LocalWebConfig, LocalWebError
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


def test_those_who_require_a_site_are_counted():
    dependents = Web(discover(["rich", "markdown-it-py", "python"])).dependents
    assert dependents["markdown-it-py.test"] == 1
    assert dependents["python.test"] > dependents["rich.test"] == 0


def test_an_address_that_is_not_ours_is_one_clear_error():
    async def start() -> None:
        local = LocalWeb(LocalWebConfig(packages="rich", bind="192.0.2.1"))
        try:
            await local.start()
        finally:
            await local.stop()

    with pytest.raises(LocalWebError, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        asyncio.run(start())
