"""Logging on stderr: a record is one line, with the process's part in the system in front.

Its further lines are indented, so that no URL and no exception that quotes a page can pass for a record.
"""

import logging
import os
import sys

from tinylm.errors import ConfigError
from tinylm.terminal import clean


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return clean(super().format(record)).replace("\n", "\n  ")


def level() -> str:
    """The level that `TINYLM_LOG` names; raises ConfigError if there is none of that name."""
    name = os.environ.get("TINYLM_LOG", "INFO").upper()
    if name not in logging.getLevelNamesMapping():
        raise ConfigError(f"TINYLM_LOG = {name!r}: one of DEBUG, INFO, WARNING, ERROR")
    return name


def setup(part: str) -> logging.Logger:
    """Configure the root logger for the process that plays `part`; `TINYLM_LOG` sets the level.

    Raises ConfigError if there is no such level.
    """
    name = level()
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(f"%(asctime)s {part} %(levelname)s %(message)s"))
    logging.basicConfig(level=name, handlers=[handler], force=True)
    # Of a bug too: its message may quote a page.
    sys.excepthook = lambda *error: logging.critical("ends by a bug", exc_info=error)
    return logging.getLogger(part)
