"""What a page of a recorded web is worth, as an expression over the columns of its table of pages."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from shards.batch import expression as language
from tinylm.errors import ConfigError


def evaluate(expression: str, columns: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
    """(rows,) The value of `expression` (shards/batch/expression.py).

    Raises ConfigError if it is none, and for a worth that is below 0 or no number.
    """
    try:
        read = language.parse(expression)
    except ConfigError as error:
        raise ConfigError(f"worth = {error}") from None
    try:
        with np.errstate(all="ignore"):
            found = np.broadcast_to(language.evaluate(read, columns), rows).astype(np.float64)
    except (ConfigError, TypeError, ValueError, pa.ArrowException) as error:
        raise ConfigError(f"worth = {expression!r}: {error}") from None
    if bad := int(np.sum(~(np.isfinite(found) & (found >= 0)))):
        raise ConfigError(f"worth = {expression!r}: below 0 or no number for {bad:,} of {rows:,} pages")
    return found
