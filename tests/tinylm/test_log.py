"""Logging: one line a record on stderr, with the part in front."""

import subprocess
import sys

import pytest

CODE = "from tinylm.log import setup; log = setup('walk'); log.debug('fine'); log.info('said %d', 1)"


@pytest.mark.parametrize(("level", "lines"), [(None, 1), ("debug", 2), ("ERROR", 0)])
def test_the_level_comes_from_the_environment(level, lines):
    environment = {} if level is None else {"TINYLM_LOG": level}
    ended = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == lines
    assert all(" walk " in line for line in ended.stderr.splitlines())


def test_a_level_that_does_not_exist_is_refused():
    ended = subprocess.run(
        [sys.executable, "-c", CODE], env={"TINYLM_LOG": "loud"}, capture_output=True, text=True, check=False
    )
    assert "ConfigError: TINYLM_LOG = 'LOUD'" in ended.stderr
