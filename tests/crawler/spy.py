"""A worker whose connections are logged, and whose DNS is ours: no test asks a real name server."""

import json
import os
from pathlib import Path

# Run at the start of every Python process of the worker: it logs whom a socket is connected or sends to, and
# answers for DNS.
SPY = """
import json, os, socket, sys

def hook(event, arguments):
    # A message without an address goes to where its socket was connected before.
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg") and arguments[1] is not None:
        line = json.dumps([event, str(arguments[1])]) + "\\n"
        os.write(log, line.encode())

def getaddrinfo(host, port, *args, **kwargs):
    if host in names:
        found = names[host]
        return [
            (socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in found
        ]
    try:
        return real(host, port, 0, 0, 0, socket.AI_NUMERICHOST)
    except socket.gaierror:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None

names = json.loads(os.environ["SPY_NAMES"])
log = os.open(os.environ["SPY_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
real, socket.getaddrinfo = socket.getaddrinfo, getaddrinfo
sys.addaudithook(hook)
"""


def spied(folder: Path, **names: list[str]) -> dict[str, str]:
    """Environment of a worker whose connections are logged and whose DNS is `names`."""
    (folder / "sitecustomize.py").write_text(SPY)
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, "SPY_NAMES": json.dumps(names), "SPY_LOG": str(folder / "contacts")}


def contacts(folder: Path) -> set[str]:
    """Addresses that the worker's sockets were connected to."""
    lines = map(json.loads, (folder / "contacts").read_text().splitlines())
    return {address for _, address in lines}
