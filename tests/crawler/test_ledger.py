"""What a source has done outlives it, and is done once."""

import pytest

from crawler.errors import SeedError
from crawler.seeds.ledger import Ledger


def test_positions_and_what_was_spent_are_kept(tmp_path):
    path = tmp_path / "made" / "sources.sqlite"
    with Ledger(path) as ledger:
        assert ledger.position("dump RS_2005-06") == ""
        ledger.settle("dump RS_2005-06", "12")
        ledger.settle("dump RS_2005-06", "34")
        ledger.spend("search:x:otters", "queries")
        ledger.spend("search:x:otters", "billed", 2)
    with Ledger(path) as ledger, Ledger(path) as beside:
        ledger.spend("search:x:otters", "queries")
        beside.spend("search:x:otters", "queries")
        assert ledger.position("dump RS_2005-06") == "34"
        assert ledger.spent() == {"search:x:otters": {"queries": 3, "billed": 2}}


def test_for_a_file_of_its_own_a_source_begins_anew_and_changes_no_position(tmp_path):
    path = tmp_path / "sources.sqlite"
    with Ledger(path) as ledger:
        ledger.settle("job", "1")
    with Ledger(path, resumes=False) as ledger:
        assert ledger.position("job") == ""
        ledger.settle("job", "2")
    with Ledger(path) as ledger:
        assert ledger.position("job") == "1"


def test_a_file_that_is_no_ledger_is_one_error(tmp_path):
    (tmp_path / "x").write_text("not a database, but long enough to be read as one " * 100)
    with pytest.raises(SeedError, match="no ledger of sources"):
        Ledger(tmp_path / "x")
