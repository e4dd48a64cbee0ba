"""Queries out of a corpus: terms that distinguish its best texts, and are rare in what there is.

Log-odds with an informative Dirichlet prior (Monroe, Colaresi and Quinn 2008, *Fightin' Words*): how much
more often a term is in the best documents than in the others, in standard errors, with all as the prior.
Times the logarithm of the inverse document frequency, as what everybody writes of brings nothing new.
"""

import math
import random
import re
import sys
from collections import Counter
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

from shards.reader import ShardReader

# Documents that are read, drawn from all of a corpus: 40 MB of texts, in some seconds.
_READ = 4000
# The best are a quarter; a term is in so many documents at least, and of several hosts: what one site repeats
# is its own.
_BEST, _FEWEST, _HOSTS = 0.25, 3, 2
# Words of a text that count: a long one says no more of what it is about.
_WORDS = 1500
# Of all documents: a word of more of them is no part of a query.
_COMMON = 0.2
_OF_ADDRESSES = {"http", "https", "www", "com", "org"}
_WORD = re.compile(r"[^\W\d_]+")
_LENGTHS = range(3, 31)  # of a word in a query


def distinctive(directory: Path, number: int, asked: Collection[str] = (), seed: int = 0) -> list[str]:
    """Queries of two words, the most distinctive first, none of `asked`. Raises ShardError."""
    reader = ShardReader(directory, split="all")
    groups = list(reader.row_groups)
    random.Random(seed).shuffle(groups)
    documents = []
    for group in groups:
        documents += reader.documents(group, ("host", "quality", "novelty", "text"))
        if len(documents) >= _READ:
            break
    if not documents:
        return []
    documents.sort(key=lambda document: -document["quality"] * (document["novelty"] or 1.0))
    # Interned, a word is held once.
    words_of = [list(map(sys.intern, _WORD.findall(each["text"].lower())[:_WORDS])) for each in documents]
    usual = Counter(word for words in words_of for word in set(words))
    often = _COMMON * len(documents)
    common = _OF_ADDRESSES | {word for word, n in usual.items() if n > often or len(word) not in _LENGTHS}
    counts: tuple[Counter[str], Counter[str]] = Counter(), Counter()
    hosts: dict[str, set[str]] = {}
    for place, (document, words) in enumerate(zip(documents, words_of, strict=True)):
        best = place < _BEST * len(documents)
        # Once a document: one that repeats itself would speak for all.
        terms = {f"{a} {b}" for a, b in pairwise(words) if a != b and a not in common and b not in common}
        counts[best].update(terms)
        if best:
            for term in terms:
                hosts.setdefault(term, set()).add(document["host"])
    fewest_hosts = min(_HOSTS, len({document["host"] for document in documents}))
    all_terms = counts[0] + counts[1]
    known = [term for term, of in hosts.items() if all_terms[term] >= _FEWEST and len(of) >= fewest_hosts]
    totals, whole = [sum(each.values()) for each in counts], all_terms.total()

    def worth(term: str) -> float:
        prior = all_terms[term]
        odds = [
            math.log((each[term] + prior) / (total + whole - each[term] - prior))
            for each, total in zip(counts, totals, strict=True)
        ]
        error = math.sqrt(sum(1 / (each[term] + prior) for each in counts))
        return (odds[1] - odds[0]) / error * math.log(len(documents) / prior)

    ranked = sorted(known, key=lambda term: (-worth(term), term))
    chosen: list[str] = []
    used: set[str] = set()
    for term in ranked:
        # Each word once: "sea otter" and "otter pups" would bring much the same.
        if worth(term) > 0 and term not in asked and used.isdisjoint(term.split()):
            chosen.append(term)
            used.update(term.split())
        if len(chosen) == number:
            break
    return chosen
