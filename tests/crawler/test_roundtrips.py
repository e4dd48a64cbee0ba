"""What fetches of one worker say to the frontier goes together, and each hears its own answer."""

import asyncio

import pytest

from crawler.errors import LeaseLost
from crawler.fetch.roundtrips import RoundTrips
from crawler.frontier import Discovered
from crawler.frontier.batch import Batch
from tests.conftest import eventually

ADDRESS = "192.0.2.1"


@pytest.fixture
def sent(store, monkeypatch):
    """A frontier, and how many calls went in each round trip."""
    frontier, trips = store.open(), []
    # A script that the server does not know yet runs after the others of its round trip.
    known = frontier.batch()
    known.release_ip(ADDRESS, "nobody")
    known.send()
    run_all = frontier._store.run_all

    def counted(calls):
        trips.append(len(calls))
        return run_all(calls)

    monkeypatch.setattr(frontier._store, "run_all", counted)
    return frontier, trips


def hold(trips, holder):
    return trips.hold(ADDRESS, holder, most=3, gap=0.0, seconds=30.0)


def test_what_comes_up_together_is_one_round_trip_and_who_lets_go_makes_room(sent):
    frontier, made = sent

    async def main():
        trips = RoundTrips(frontier)
        waits = await asyncio.gather(*(hold(trips, str(n)) for n in range(8)))
        assert [wait == 0 for wait in waits] == [True] * 3 + [False] * 5
        trips.release(ADDRESS, "1")
        assert await hold(trips, "8") == 0
        assert await hold(trips, "9") > 0

    asyncio.run(main())
    assert made == [8, 2, 1]


def test_an_end_that_comes_too_late_is_lost_for_itself_alone(sent):
    frontier, made = sent
    frontier.put(Discovered(f"http://{host}.test/", 0.5) for host in "abc")
    leases = [lease for _ in range(3) for lease in eventually(lambda: frontier.lease(1))]
    frontier.give_back(leases[1])

    async def main():
        trips = RoundTrips(frontier)
        ends = [trips.end(lease, Batch.nack, "timeout") for lease in leases]
        return await asyncio.gather(*ends, hold(trips, "a"), return_exceptions=True)

    made.clear()
    first, second, third, wait = asyncio.run(main())
    assert (first, third, wait) == (None, None, 0)
    assert isinstance(second, LeaseLost)
    assert made == [4]
