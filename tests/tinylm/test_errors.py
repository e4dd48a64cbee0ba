"""The edge: errors become one line and an exit code."""

import pytest

from crawler.errors import LeaseLost
from shards.errors import ShardCorrupt
from tinylm.errors import ConfigError, TinylmError, exit_on_error


@pytest.mark.parametrize("kind", [TinylmError, ConfigError, ShardCorrupt, LeaseLost])
def test_what_the_user_can_act_on_is_one_line_and_exit_code_2(kind, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise kind("pages = 0: at least 1")
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "error: pages = 0: at least 1\n")


def test_an_interrupt_is_exit_code_130(capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), exit_on_error():
        raise ZeroDivisionError


def test_success_passes_through():
    with exit_on_error():
        done = True
    assert done
