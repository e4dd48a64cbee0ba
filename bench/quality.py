"""What the judge of texts costs, how well it separates, and which near-duplicates it finds, on real pages.

Prose pages stand for what people would choose: some of them get votes, and a few others by mistake.
Everything else is unlabelled, as in a crawl. Pages are scored that were not learned. About three minutes.
"""

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from cyclopts import App

from bench.pages import bodies, fetched, table
from bench.report import report
from crawler.page import Extracted
from crawler.read.extract import Extractor
from ranker.config import WalkConfig
from ranker.judge.calibration import Calibration
from ranker.judge.judge import Judge
from ranker.judge.quality import HashedLinear, sigmoid
from shards.text.dedup import SEEN, Novelty, Sketch, shingles, sketch
from shards.text.filters import judge
from shards.text.signals import Signals

KINDS = {
    "prose": 1000,
    "api": 1000,
    "stub": 350,
    "reference": 250,
    "index": 200,
    "changelog": 120,
    "source": 120,
}
NEW_HOSTS = {"docs.djangoproject.com", "llvm.org", "docs.pytest.org", "docs.scipy.org"}
PRIORS = (0.1, 0.3, 0.5)
_DRAWS = 4
_VOTED, _VOTED_BY_MISTAKE = 0.15, 0.005

app = App(name="python -m bench.quality", help=__doc__)


class Sample(NamedTuple):
    host: str
    kind: str
    signals: Signals
    keep: bool


@app.default
def main(*, out: Path | None = None) -> None:
    """Measure all; the last line is JSON."""
    samples = real_pages()
    figures: dict[str, Any] = {"pages": len(samples), "cost": cost(samples)}
    estimators: dict[str, Callable[[], HashedLinear]] = {"weighted": HashedLinear}
    estimators |= {f"nnpu {prior}": partial(NonNegativePU, prior) for prior in PRIORS}
    for name, made in estimators.items():
        figures[name] = {
            "auc": round(separation(samples, made, new_hosts=False), 3),
            "auc_new_hosts": round(separation(samples, made, new_hosts=True), 3),
        }
        print(name, figures[name], flush=True)
    figures["calibration"] = calibration(samples)
    figures["near_duplicates"] = near_duplicates(samples)
    figures["index"] = index_of_a_million()
    report(figures, out, "numpy", "trafilatura")


def real_pages() -> list[Sample]:
    """English pages of each kind, extracted, in a fixed random order."""
    rows = table()
    source = Random(1)
    chosen: dict[str, dict[str, str]] = {}
    for kind, count in KINDS.items():
        chosen |= {row["file"]: row for row in source.sample([r for r in rows if r["kind"] == kind], count)}
    extract, found = Extractor(), []
    for row, body in bodies(chosen.values()):
        page = extract(body, row["url"], "text/html", False, 10.0)
        if page.text and page.language == "en":
            signals = Signals(page.text, page.language)
            found.append(Sample(row["host"], row["kind"], signals, judge(signals).keep))
    source.shuffle(found)
    return found


def cost(samples: Sequence[Sample]) -> dict[str, float]:
    """CPU time of the judge a page, with the online model: everything from text to worth."""
    one, source, times = Judge(WalkConfig()), Random(1), []
    for number, sample in enumerate(samples):
        text = sample.signals.text
        digest = sha256(text.encode()).hexdigest()
        found = Extracted(text=text, language="en", language_score=1.0, content_sha256=digest)
        page = fetched(str(number), found)
        karma = 100.0 * voted(sample, source)
        began = time.process_time()
        one(page, karma)
        times.append((time.process_time() - began, len(text.split())))
    seconds, words = np.array(times).T
    middle = (words >= 500) & (words < 1000)
    return {
        "ms_a_page": round(float(seconds.mean()) * 1000, 2),
        "words_a_page": round(float(words.mean())),
        "ms_a_page_of_500_to_1000_words": round(float(seconds[middle].mean()) * 1000, 2),
    }


def voted(sample: Sample, source: Random) -> bool:
    share = _VOTED if sample.kind == "prose" else _VOTED_BY_MISTAKE
    return source.random() < share and sample.keep


def weight(source: Random, chosen: bool) -> float:
    """Karma is distributed as it is: most of it little."""
    return min(10.0, 1 + math.log1p(20 * source.paretovariate(1))) if chosen else 1.0


class NonNegativePU(HashedLinear):
    """Kiryo et al. (2017), online, the share of good pages given: what `HashedLinear` was compared with."""

    def __init__(self, prior: float) -> None:
        super().__init__()
        self._prior = prior
        self._losses = {True: math.log(2), False: math.log(2)}

    def _error(self, margin: float, *, chosen: bool) -> float:
        """Gradient of the risk by the margin; the loss of chosen pages as bad ones is bounded below."""
        probability = sigmoid(margin)
        sign = 1 if self._losses[False] >= self._prior * self._losses[True] else -1
        self._losses[chosen] += 0.02 * (math.log1p(math.exp(min(30.0, margin))) - self._losses[chosen])
        if chosen:
            return -self._prior * (1 - probability + sign * probability)
        return sign * probability


def separation(samples: Sequence[Sample], made: Callable[[], HashedLinear], *, new_hosts: bool) -> float:
    """AUC of prose against API pages and stubs that were not learned; mean of the draws."""
    areas = []
    for draw in range(_DRAWS):
        source = Random(draw)
        model = made()
        scores = defaultdict(list)
        held = [sample.host in NEW_HOSTS if new_hosts else source.random() < 0.33 for sample in samples]
        for sample, out in zip(samples, held, strict=True):
            if not out:
                chosen = voted(sample, source)
                model.learn(sample.signals, chosen=chosen, weight=weight(source, chosen))
        for sample, out in zip(samples, held, strict=True):
            if out:
                scores[sample.kind].append(model.score(sample.signals))
        positives, negatives = np.array(scores["prose"]), np.array(scores["api"] + scores["stub"])
        areas.append((positives[:, None] > negatives).mean() + (positives[:, None] == negatives).mean() / 2)
    return float(np.mean(areas))


def calibration(samples: Sequence[Sample]) -> dict[str, float]:
    """ECE of the later half of what was learned, each page scored before; mean of the draws."""
    errors = []
    for draw in range(_DRAWS):
        source, model, line, seen = Random(draw), HashedLinear(), Calibration(), []
        for sample in source.sample(samples, len(samples)):
            chosen = voted(sample, source)
            score, heavy = model.score(sample.signals), weight(source, chosen)
            said = line(score)
            if model.learn(sample.signals, chosen=chosen, weight=heavy):
                line.learn(score, chosen=chosen, weight=heavy)
                seen.append((score, said, chosen, heavy))
        errors.append([_error(np.array(seen[len(seen) // 2 :]), column) for column in (0, 1)])
    raw, calibrated = np.mean(errors, axis=0)
    return {"ece_raw": round(float(raw), 3), "ece": round(float(calibrated), 3), "learned": len(seen)}


def _error(seen: Any, column: int) -> float:
    said, chosen, heavy = seen[:, column], seen[:, 2], seen[:, 3]
    bins = np.minimum(9, (said * 10).astype(int))
    parts = [abs((heavy * (said - chosen))[bins == number].sum()) for number in range(10)]
    return float(sum(parts) / heavy.sum())


def near_duplicates(samples: Sequence[Sample]) -> dict[str, Any]:
    """Against the exact overlaps of all pairs of kept pages."""
    novelty, errors = Novelty(), []
    by_gram: defaultdict[int, list[int]] = defaultdict(list)
    sizes: list[int] = []
    known: set[int] = set()
    found: dict[str, Counter[float]] = {"dropped": Counter(), "kept": Counter()}
    for sample in samples:
        if not sample.keep:
            continue
        grams, short = set(shingles(sample.signals.hashes).tolist()), sketch(sample.signals)
        common = Counter(other for gram in grams for other in by_gram[gram])
        overlap = max((n / (len(grams) + sizes[other] - n) for other, n in common.items()), default=0.0)
        errors.append(abs(novelty.new_share(short) - len(grams - known) / len(grams)))
        dropped = novelty.near_duplicate(short)
        found["dropped" if dropped else "kept"][math.floor(overlap * 10) / 10] += 1
        if not dropped:
            novelty.add(short)
            known |= grams
            for gram in grams:
                by_gram[gram].append(len(sizes))
            sizes.append(len(grams))
    by_overlap = {kind: dict(sorted(counts.items())) for kind, counts in found.items()}
    return {"by_overlap": by_overlap, "error_of_new_share": round(float(np.mean(errors)), 3)}


def index_of_a_million() -> dict[str, float]:
    """Memory and false positives once it holds a million texts of 700 words that are like no others."""
    source, novelty = np.random.default_rng(1), Novelty()

    def texts(count: int) -> Sketch:
        bands, grams = (source.integers(0, 2**64, n * count, dtype=np.uint64) for n in (SEEN[0], 44))
        return Sketch(bands, grams)

    for _ in range(1000):
        novelty.add(texts(1000))
    wrong = sum(novelty.near_duplicate(texts(1)) for _ in range(4000)) / 4000
    shares = [novelty.new_share(texts(1)) for _ in range(1000)]
    return {
        "megabytes": round(sum(np.asarray(part).nbytes for part in novelty.state().values()) / 1e6),
        "false_positives": wrong,
        "new_share_of_new_texts": round(float(np.mean(shares)), 3),
    }


if __name__ == "__main__":
    app()
