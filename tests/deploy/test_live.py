"""What the simulator says of a policy is what a crawl does."""

import pytest

from bench.live import compare


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_live_crawl_harvests_what_its_simulation_says():
    found = compare(("tinylm",), budget=300, rounds=1)["orders"]["tinylm"]
    assert 0.75 < found["ratio_auc"] < 1.33, found
