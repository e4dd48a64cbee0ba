"""Quality models that others trained: a fastText classifier. Whatever needs torch is not opened here."""

from collections.abc import Callable
from pathlib import Path

from ranker.config import ONLINE
from ranker.judge.quality import QualityModel
from tinylm.errors import ConfigError

Open = Callable[[str, str], QualityModel]
"""From what `quality` and `quality_label` say to a model; raises ConfigError if there is none."""


class FastText:
    """A supervised fastText model (`.bin`, `.ftz`), as DCLM's: the probability it gives to one label.

    About 0.1 ms for 700 words. Raises ConfigError if `path` is no such model or does not know `label`.
    """

    def __init__(self, path: Path, label: str) -> None:
        import fasttext

        try:
            self._model = fasttext.load_model(str(path))
            labels = sorted(self._predict("x"))
        except (ValueError, MemoryError, OSError) as error:
            raise ConfigError(
                f"quality = {str(path)!r}: not a supervised fastText model ({error})"
            ) from error
        if label not in labels:
            known = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
            raise ConfigError(f"quality_label = {label!r}: {path} knows {known}")
        self.name = f"fasttext {path.name} {label}"
        self._label = label

    def score(self, text: str) -> float:
        """The probability of the label for `text`, read as one line."""
        return min(1.0, self._predict(text).get(self._label, 0.0))

    def _predict(self, text: str) -> dict[str, float]:
        line = " ".join(text.encode("utf-8", "replace").decode().splitlines())
        return dict(zip(*self._model.predict(line, k=-1), strict=True))

    def close(self) -> None:
        """Nothing is open."""


def open_model(quality: str, label: str) -> QualityModel:
    """The model at the path `quality`; raises ConfigError if there is none that can be opened here."""
    path = Path(quality)
    if path.suffix in (".bin", ".ftz") and path.is_file():
        return FastText(path, label)
    raise ConfigError(
        f"quality = {quality!r}: there is no model at this path, fastText's or a checkpoint's; {ONLINE!r} is "
        "the one the crawl trains itself"
    )
