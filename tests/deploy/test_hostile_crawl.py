"""One real crawl among good hosts, a link farm and dead links, whose server is too small at first."""

import json

from bench.hostile import Course, crawl, opened
from bench.hostile_web import GOOD_HOSTS


def test_a_farm_and_dead_names_on_a_full_server_neither_end_a_crawl_nor_use_it_up(tmp_path):
    def all_were_reached_though_it_was_full():
        walked = (tmp_path / "data" / "logs" / "walk.log").read_text()
        if "links and seeds wait until it has" not in walked:
            return False
        with opened(tmp_path / "data") as frontier:
            frontier.client.config_set("maxmemory", "64mb")
        asked = map(json.loads, (tmp_path / "good.log").read_text().splitlines())
        return len({host for _, host, path in asked if path != "/robots.txt"}) == GOOD_HOSTS

    long = Course(warm=0, window=120, timeout=3, rounds=1)
    run = crawl(
        tmp_path, "farm,names", long, all_were_reached_though_it_was_full, memory="4mb", shard_seconds=300
    )
    assert run.end.startswith("done: the window is over")  # never "nothing left to fetch"
    assert run.reached == GOOD_HOSTS
    assert run.fetched == run.asked
    assert run.counts["failed_connections"] > 100
