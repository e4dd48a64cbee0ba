"""Logging: one line a record on stderr, with the process's part in the system in front."""

import logging
import os

from tinylm.errors import ConfigError


def setup(part: str) -> logging.Logger:
    """Configure the root logger for the process that plays `part`; `TINYLM_LOG` sets the level.

    Raises ConfigError if there is no such level.
    """
    level = os.environ.get("TINYLM_LOG", "INFO").upper()
    if level not in logging.getLevelNamesMapping():
        raise ConfigError(f"TINYLM_LOG = {level!r}: one of DEBUG, INFO, WARNING, ERROR")
    logging.basicConfig(level=level, format=f"%(asctime)s {part} %(levelname)s %(message)s", force=True)
    return logging.getLogger(part)
