"""Posts of any month since 2005, drawn from its dump's statistics: how often each field has which type."""

import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any, cast

from backports import zstd

LETTERS = "the quick brown fox jumps over a lazy dog and writes about it in a long post "


def schemas(path: Path) -> dict[str, list[Any]]:
    """By month (`RS_2012-01`), the statistics of its submissions."""
    with zstd.open(path) as stream, tarfile.open(fileobj=io.BytesIO(stream.read())) as archive:
        members = [member for member in archive if "/RS/" in member.name and member.name.endswith(".json")]
        return {
            Path(member.name).stem: json.load(cast("Any", archive.extractfile(member))) for member in members
        }


def share(kind: dict[str, Any]) -> float:
    return 1.0 if kind["usage"] == "always" else float(kind["usage"])


def is_field(kinds: Any) -> bool:
    return bool(kinds) and isinstance(kinds, list) and isinstance(kinds[0], dict) and "usage" in kinds[0]


def drawn(source: random.Random, alternatives: list[Any], depth: int = 0) -> Any:
    """A value of one of the alternatives of a field: its type by its share, or any once in ten times."""
    shares = [share(each) for each in alternatives]
    even = source.random() < 0.1
    [chosen] = source.choices(alternatives, None if even or not sum(shares) else shares)
    kind, about = chosen["type"], chosen["schema"] or {}
    if kind == "object":
        fields = {name: kinds for name, kinds in about.items() if depth < 3 and is_field(kinds)}
        return {
            name: drawn(source, kinds, depth + 1)
            for name, kinds in fields.items()
            if source.random() < 0.02 + sum(map(share, kinds))
        }
    if kind == "array":
        items = about.get("schema") or []
        several = range(source.randrange(3)) if is_field(items) and depth < 3 else ()
        return [drawn(source, items, depth + 1) for _ in several]
    if kind == "bool":
        yes, no = about.get("true", 1), about.get("false", 1)
        return source.random() * max(1, yes + no) < yes
    if kind in ("int", "float", "number"):
        low, high = about.get("min_value", 0), about.get("max_value", 1)
        value = source.uniform(low, high)
        return int(value) if kind == "int" else value
    if kind == "null":
        return None
    if values := about.get("values"):
        return source.choice(values)["value"]
    length = max(0, int(source.gauss(about.get("avr_length", 10), 3)))
    return (LETTERS * (1 + length // len(LETTERS)))[:length]
