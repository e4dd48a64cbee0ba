"""`Console`: rich's, which a stranger's text can neither command nor mark up.

Not in `tinylm.terminal`, which every worker loads: to load rich takes 30 ms.
"""

from collections.abc import Iterable
from typing import Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment

from tinylm.terminal import clean


class Console(rich.console.Console):
    """No markup: `[red]` in a URL is a part of it, and a stray `[/red]` no error. Nor :emoji: names."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does: strings, tables, live views, Markdown, whose entities decode to anything."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else clean(text), style, control)
