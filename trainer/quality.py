"""A trained model as the judge of what it should read: of a text, how well it predicts it.

It has the shape of the ranker's `QualityModel`; the two rooms know nothing of each other.
"""

import math
from pathlib import Path

from trainer.evaluate import bits_per_byte
from trainer.run.checkpoint import find, load_model

_CHARACTERS = 2000


class CheckpointQuality:
    """The model and tokenizer of a run (its latest checkpoint) or of one checkpoint.

    Raises `CheckpointError` or `TokenizerError` if they cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._model, self._tokenizer = load_model(path)
        checkpoint = find(path)
        self.name = f"checkpoint {checkpoint.parent.name}/{checkpoint.name}"

    def score(self, text: str) -> float:
        """The probability the model gives to an average byte of the text's beginning, 2 ** -(bits per byte).

        The mean is the geometric one; the beginning is 2,000 characters. 0 for no text.
        """
        beginning = text[:_CHARACTERS].encode("utf-8", "replace").decode()
        if not beginning:
            return 0.0
        return min(1.0, math.exp2(-bits_per_byte(self._model, self._tokenizer, [beginning])))

    def close(self) -> None:
        """Nothing is open."""
