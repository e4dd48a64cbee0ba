"""Hosts that cannot be reached or not be trusted: each failure under its own name, retried as fits."""

import socket
import ssl
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crawler.frontier import Discovered
from tests.conftest import Site, article, eventually, fetched_pages, open_frontier, reply, worker
from tests.crawler.spy import spied

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
    assert counts["failed_connections"] == 7  # self-signed, expired, wrong-host, plain; refused, dns
