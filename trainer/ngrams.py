"""Guessing how a text goes on by where its last tokens stood before (prompt lookup, as in transformers).

A guess costs a look into a dictionary and nothing to train. Read together with the next token, its tokens are
accepted as far as they are what would have been drawn anyway, so the text stays the same.
"""

from collections.abc import Iterable


class NGrams:
    """A growing text and where each n tokens of it stood last."""

    def __init__(self, tokens: Iterable[int], n: int = 3) -> None:
        self._n = n
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        for token in tokens:
            self.append(token)

    def append(self, token: int) -> None:
        if len(self._text) >= self._n:
            self._after[tuple(self._text[-self._n :])] = len(self._text)
        self._text.append(token)

    def guess(self, most: int) -> list[int]:
        """Up to `most` tokens that came after the last n when they stood in the text before; often none."""
        at = self._after.get(tuple(self._text[-self._n :])) if most > 0 else None
        return [] if at is None else self._text[at : at + most]
