"""Hosts that cannot be reached or not be trusted: each failure under its own name. Our own are no host's."""

import errno
import os
import resource
import socket
import ssl
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crawler.errors import OwnFault
from crawler.fetch import failures
from crawler.fetch.failures import OwnFaults, classify, own_fault
from crawler.frontier import Discovered
from tests.conftest import Site, article, eventually, fetched_pages, open_frontier, reply, worker
from tests.crawler.spy import spied
from tests.crawler.test_warc import assert_valid, records

NOW = datetime.now(UTC)


def certificate(folder, name, issuer=None, ends=NOW + timedelta(days=1)):
    """A key and a certificate for `name`, signed by `issuer` or by itself, and the context that shows it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer_name, signer = issuer or (subject, key)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=30))
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(identifier, critical=False)
        .sign(signer, hashes.SHA256())
    )
    path = folder / f"{name}-{ends:%Y%m%d}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, (subject, key), made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def failed(server, tmp_path_factory):
    """One worker, hosts of every kind; an authority that it trusts signed all but the self-signed one."""
    folder = tmp_path_factory.mktemp("failures")
    _, authority, root = certificate(folder, "authority.test")
    (folder / "roots.pem").write_bytes(root)
    signed = {
        "good.test": certificate(folder, "good.test", authority),
        "self-signed.test": certificate(folder, "self-signed.test"),
        "expired.test": certificate(folder, "expired.test", authority, NOW - timedelta(days=2)),
        "wrong-host.test": certificate(folder, "elsewhere.test", authority),
    }
    sites = {host: Site("127.8.0.2", context) for host, (context, *_) in signed.items()}
    sites["plain.test"] = Site("127.8.0.2")
    unused = socket.create_server(("127.8.0.2", 0))
    ports = {host: site.port for host, site in sites.items()} | {"refused.test": unused.getsockname()[1]}
    unused.close()
    for host, site in sites.items():
        site.on(host, "/page", reply(200, article(host)))
    frontier = open_frontier(server, delay=0.05, attempts=2, backoff=0.2)
    names = [*ports, "no-such-name.test"]
    frontier.put(Discovered(f"https://{host}/{path}", 0.5) for host in names for path in ("page", "more"))
    options = [part for host, port in ports.items() for part in ("--resolve", f"{host}=127.8.0.2:{port}")]
    options += ["--allowed-networks", "127.8.0.0/16"]
    with worker(
        server,
        frontier,
        sites["good.test"],
        folder / "log",
        *options,
        SSL_CERT_FILE=str(folder / "roots.pem"),
        **spied(folder),
    ):
        eventually(lambda: frontier.counts()["failed:dns"] and frontier.counts()["failed:refused"] >= 2)
        eventually(lambda: frontier.counts()["dead"] >= 8 and len(fetched_pages(frontier)) == 2)
    yield sites, frontier
    for site in sites.values():
        site.stop()


def test_a_trusted_certificate_is_trusted(failed):
    _, frontier = failed
    assert "good.test explains" in fetched_pages(frontier)["https://good.test/page"].text


def test_no_request_is_sent_where_the_certificate_is_not(failed):
    """Tried twice; then nothing of the host can be fetched."""
    sites, frontier = failed
    assert frontier.counts()["failed:tls"] == 4 * 2
    assert Counter(reason for _, reason in frontier.dead_letters())["tls"] == 4 * 2
    assert {host for host, site in sites.items() if site.hits} == {"good.test"}


def test_a_host_that_is_not_there_is_asked_less_and_less(failed):
    _, frontier = failed
    assert frontier.counts()["failed:refused"] >= 2
    assert {"dns", "refused"} <= {reason for _, reason in frontier.dead_letters()}


def test_a_name_that_does_not_exist_is_looked_up_once(failed):
    assert failed[1].counts()["failed:dns"] == 1


def test_only_requests_that_were_sent_are_fetches(failed):
    sites, frontier = failed
    counts = frontier.counts()
    assert counts["fetched"] == sum(len(site.hits) for site in sites.values()) == 3
    assert counts["failed_connections"] == 6  # self-signed, expired, wrong-host, plain; refused, dns


def caused_by(error):
    try:
        raise ValueError("what was being done") from error
    except ValueError as raised:
        return raised


OURS = ("ENOSPC", "EDQUOT", "EIO", "EROFS", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EAGAIN", "ENETDOWN")


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(getattr(errno, name), name) for name in OURS),
        MemoryError(),
        RuntimeError("can't start new thread"),
        socket.gaierror(socket.EAI_MEMORY, "Memory allocation failure"),
        OwnFault("the cat is on the keyboard: take it off"),
    ],
    ids=str,
)
def test_what_this_machine_lacks_is_our_own_fault_and_says_what_to_do(error):
    assert ": " in str(own_fault(error))
    assert str(own_fault(caused_by(error))) == str(own_fault(error))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ssl.SSLError(ssl.SSL_ERROR_SYSCALL, "looks like EIO"), "tls"),
        (ssl.SSLEOFError(8, "EOF occurred"), "tls"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "no"), "refused"),
        (ConnectionResetError(errno.ECONNRESET, "no"), "reset"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "dns"),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "dns"),
        (ValueError("a server says: can't start new thread"), "bad_response"),
        (TimeoutError(), "timeout"),
    ],
    ids=str,
)
def test_no_error_that_a_server_can_cause_is_our_own_fault(error, reason):
    assert own_fault(error) is None
    assert classify(caused_by(error)) == reason


def test_faults_make_less_be_begun_and_success_more(monkeypatch, caplog):
    monkeypatch.setattr(failures, "_SHORTEST_PAUSE", 0.0)
    faults = OwnFaults(16)
    for allowed in (8, 4, 2, 1, 1):
        faults._until = 0.0
        faults.met(OwnFault("no room: make some"))
        faults._until = 0.0
        assert faults.free(0) == allowed
    assert faults.waiting_for == "no room: make some"
    faults.passed(time.monotonic() - 60)  # it was begun before
    assert faults.free(0) == 1
    for _ in range(15):
        faults.passed(time.monotonic())
    assert (faults.free(3), faults.waiting_for) == (13, "")
    assert caplog.text.count("no room") == 1


def test_nothing_is_begun_in_a_pause_and_in_the_end_it_is_given_up(monkeypatch):
    faults = OwnFaults(16)
    faults.met(OwnFault("no room: make some"))
    assert faults.free(0) == 0
    monkeypatch.setattr(failures, "_PATIENCE", -1.0)
    with pytest.raises(OwnFault, match="nothing is lost: no room: make some"):
        faults.free(0)
    monkeypatch.setattr(failures, "_FORGOTTEN", -1.0)
    assert (faults.free(0), faults.waiting_for) == (16, "")


def waiting_for(frontier):
    return "".join(status.get("waiting_for", "") for status in frontier.published_by_workers())


def test_a_worker_with_too_few_descriptors_fetches_all_the_same(server, site, tmp_path):
    def slow(handler):
        time.sleep(0.3)
        reply(200, article(handler.headers["Host"]))(handler)

    hosts = [f"h{n}.test" for n in range(20)]
    for host in hosts:
        site.on(host, "/robots.txt", reply(404))
        site.on(host, "*", slow)
    frontier = open_frontier(server, attempts=1)
    with worker(server, frontier, site, tmp_path / "log", "--concurrency", "20") as process:
        eventually(frontier.published_by_workers)
        used = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used + 8, used + 8))
        frontier.put(Discovered(f"http://{host}/page", 0.5) for host in hosts)
        eventually(lambda: "Too many open files" in waiting_for(frontier))
        eventually(lambda: len(fetched_pages(frontier)) == 20)
    assert frontier.dead_letters() == []
    assert frontier.counts()["fetched"] == len(site.hits) == 40
    assert "waiting, nothing is lost: Too many open files" in (tmp_path / "log").read_text()


def test_a_full_disk_is_waited_for_and_no_page_is_without_its_record(server, site, tmp_path):
    """Pages come again when there is room: no URL is lost, blamed, or twice in the files."""
    hosts = [f"h{n}.test" for n in range(6)]
    for host in hosts:
        site.on(host, "/robots.txt", reply(404))
        site.on(host, "*", reply(200, article(host) + os.urandom(20_000).hex()))
    frontier = open_frontier(server, attempts=1)
    options = ("--warc", "--data", str(tmp_path))
    with worker(server, frontier, site, tmp_path / "log", *options) as process:
        frontier.put(Discovered(f"http://{host}/1", 0.5) for host in hosts)
        eventually(lambda: len(fetched_pages(frontier)) == 6)
        [path] = (tmp_path / "warc").iterdir()
        before = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (path.stat().st_size + 5000, before[1]))
        frontier.put(Discovered(f"http://{host}/2", 0.5) for host in hosts)
        eventually(lambda: str(tmp_path / "warc") in waiting_for(frontier))
        assert len(fetched_pages(frontier)) == 6
        assert frontier.counts()["fetched"] == 12
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, before)
        eventually(lambda: len(fetched_pages(frontier)) == 12)
        process.terminate()
        assert process.wait(60) == 0
    assert frontier.dead_letters() == []
    [path] = (tmp_path / "warc").iterdir()
    urls = Counter(url for kind, url, *_ in records(path) if kind == "response")
    assert urls.keys() >= fetched_pages(frontier).keys()
    assert set(urls.values()) == {1}
    assert_valid(tmp_path / "warc")
    for host in hosts:  # what was asked for and not kept counts for politeness
        hits = sorted(site.asked(host), key=lambda hit: hit.begun)
        assert all(after.begun - hit.ended >= 0.03 - 0.001 for hit, after in pairwise(hits))


def test_a_machine_without_a_network_blames_no_host(server, site, tmp_path):
    """The worker has a network namespace of its own, with nothing in it; the frontier is at a Unix socket."""
    code = "import ctypes; done = ctypes.CDLL(None).unshare(0x40000000)"  # CLONE_NEWNET
    if subprocess.run([sys.executable, "-c", f"{code}; raise SystemExit(done)"], check=False).returncode:
        pytest.skip("no right to make a network namespace")
    (tmp_path / "sitecustomize.py").write_text(code)
    site.on("a.test", "*", reply(200, article("never")))
    frontier = open_frontier(server, attempts=1)
    frontier.put([Discovered("http://a.test/page", 0.5)])
    with worker(server, frontier, site, tmp_path / "log", PYTHONPATH=str(tmp_path)):
        eventually(lambda: "no route" in waiting_for(frontier))
    counts = frontier.counts()
    assert (counts["failed_connections"], counts["failed:unreachable"], counts["dead"]) == (0, 0, 0)
    assert counts["queued"] == 1
