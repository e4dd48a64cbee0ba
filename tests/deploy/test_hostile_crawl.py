"""One real crawl among good hosts, a link farm and pages of dead links, on a server that is too small."""

from bench.hostile import Course, crawl
from bench.hostile_web import GOOD_HOSTS


def test_a_farm_and_dead_names_on_a_full_server_neither_end_a_crawl_nor_use_it_up(tmp_path):
    run = crawl(tmp_path, "farm,names", Course(warm=4, window=8, timeout=3, rounds=1), memory="16mb")
    assert run.end.startswith("done: its time is up")
    assert run.reached == GOOD_HOSTS
    assert run.fetched == run.asked > run.good > 0
    assert run.elsewhere < 0.5
