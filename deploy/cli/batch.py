"""`tinylm shards` on many cores: import, filter, map, sample make corpora; stats, diff, why look at them."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from cyclopts import Parameter, validators
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from deploy.console import Console
from shards.batch.dedup import NEAR, Dedup
from shards.batch.job import Lineage, Part, Work, run
from shards.batch.looking import differences, parts_of, summed
from shards.batch.stages import Filter, Map, Sample
from shards.errors import ShardError
from shards.manifest import Manifest, is_corpus
from shards.reader import ShardReader
from shards.text import languages
from tinylm.errors import ConfigError
from tinylm.terminal import entered, say, tally

# From which a language is known: more change no figure of ours.
_TEXTS = 20_000
_Share = Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class To:
    """Where a new corpus goes, and who makes it."""

    out: Path
    """Its folder. What was begun there goes on."""
    ray: str = ""
    """Address of a Ray cluster that does it, such as `auto`; its nodes have to reach all folders."""


def filter(  # noqa: A001 (the field's word)
    corpus: str, where: str, *, values_of: Path | None = None, to: To
) -> None:
    """Make OUT of the documents of CORPUS for which WHERE holds, such as "text contains 'statistics'".

    Parameters
    ----------
    values_of
        What an earlier filter of this corpus made: its values decide, with other thresholds, and no text is
        read to judge.
    """
    _do(Filter(corpus, entered(where), values_of), to)


def dedup(
    corpus: str,
    *,
    keep: str = "quality",
    overlap: _Share = NEAR,
    against: str = "",
    values_of: Path | None = None,
    to: To,
) -> None:
    """Make OUT of CORPUS without what is the same as, or near, another document: the best of them stays.

    Parameters
    ----------
    keep
        An expression that says which is the best, such as `rps_doc_word_count`.
    overlap
        Estimated share of word 5-grams in common, from which on two documents are near.
    against
        Another corpus: what is near a document there goes too.
    values_of
        What an earlier dedup of the same corpora made: its signatures are used, and no text is read.
    """
    audit = _do(Dedup(corpus, entered(keep), overlap, against, values_of), to).audit
    if audit:
        precision, recall = (
            f"{audit[name]:.1%} ({audit[f'{name}_low']:.1%} to {audit[f'{name}_high']:.1%})"
            for name in ("precision", "recall")
        )
        looked_at = f"{audit['dropped_pairs']:,} of the dropped and {audit['kept_pairs']:,} of the kept"
        say(f"audit of {looked_at}: precision {precision}, recall {recall}")


def map(corpus: str, function: str, *, to: To) -> None:  # noqa: A001 (the field's word)
    """Make OUT of what FUNCTION, as module:name, returns for each document of CORPUS.

    It gets a dictionary of the columns, and returns one of those that change, True for none, or False or None
    to drop the document. Documents for which it raises an error are dropped and counted.
    """
    _do(Map(corpus, entered(function)), to)


def sample(corpus: str, share: _Share, *, by: str = "1", seed: int = 0, to: To) -> None:
    """Make OUT of a SHARE of CORPUS: the same documents whenever it is drawn, and all of a smaller share.

    Parameters
    ----------
    by
        An expression: a document is kept with SHARE times its value as probability.
    """
    _do(Sample(corpus, share, entered(by), seed), to)


def import_(*sources: str, text: str = "text", name: str = "", to: To) -> None:
    """Make OUT of SOURCES: Parquet with a column `text`, or JSON Lines, packed or not, by path or URL.

    Parameters
    ----------
    text
        In JSON Lines, the key of the text.
    name
        Of documents' source, and of the hosts of those without a URL; default: that of the first source.
    """
    from crawler.read.language import detect_language
    from shards.batch.importing import Import

    if not sources:
        raise ConfigError("nothing to import: name files or folders")
    _do(Import(list(sources), _identify, detect_language, text=entered(text), name=name), to)


def _identify(url: str) -> tuple[str, str, int] | None:
    from crawler.urls import canonicalize, fingerprint, locate

    page = canonicalize(url)
    return (page, locate(page).host, fingerprint(page)) if page else None


def _do(work: Work, to: To) -> Manifest:
    """Run it with a bar, and say what came of it."""
    console, looked_at, dropped = Console(), 0, Counter[str]()
    bar = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("parts, {task.fields[documents]} documents, left:"),
        TimeRemainingColumn(),
    )
    with Progress(*bar, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(work.stage, total=work.parts, documents="0")

        def done(part: Part) -> None:
            nonlocal looked_at
            looked_at += part.looked_at
            dropped.update(part.dropped)
            progress.update(task, description=work.stage, advance=1, documents=f"{looked_at:,}")

        def note(what: str) -> None:
            progress.update(task, description=f"{work.stage}: {what}")

        manifest = run(work, to.out, to.ray, done, note)
    of = f"{manifest.rows:,} of {looked_at:,} documents, {manifest.text_bytes / 1e6:.1f} MB of text"
    say(f"{to.out}: {of}; dropped: {tally(dropped) or 'nothing'}")
    return manifest


def stats(corpus: str, *, by: str = "language", top: int = 20) -> None:
    """Documents, text, words and quality of CORPUS, by a column such as language, host or source."""
    found = summed(corpus, entered(by))
    table = Table(by, "documents", "text MB", "words", "quality")
    for row in found[:top]:
        counts = f"{row['documents']:,}", f"{row['bytes'] / 1e6:.1f}", f"{row['words']:,.0f}"
        table.add_row(str(row[by]), *counts, f"{row['quality']:.3f}")
    console = Console()
    console.print(table)
    total = sum(row["documents"] for row in found), sum(row["bytes"] for row in found) / 1e6
    console.print(f"{total[0]:,} documents, {total[1]:.1f} MB of text, {len(found):,} values of {by}")


def language(corpus: str, code: str, *, english: str = "") -> None:
    """Print what the rules need to know of a language, by its ISO 639 code, from the texts in it of CORPUS.

    Written to a file that TINYLM_LANGUAGES names, it is known to every command from then on.

    Parameters
    ----------
    english
        A corpus with texts in English; best the same ones, at the same URLs. Default: CORPUS.
    """
    found = languages.measured(entered(code), _texts(corpus, code), _texts(english or corpus, "en"))
    say(languages.row(code, found))


def _texts(corpus: str, code: str) -> dict[str, str]:
    """Texts in a language by URL, of which so many say enough."""
    reader = ShardReader(corpus, split="all")
    documents = (
        row for group in reader.row_groups for row in reader.documents(group, ("url", "text", "language"))
    )
    of_language = (row for row in documents if row["language"] == code)
    return {row["url"]: row["text"] for row in islice(of_language, _TEXTS)}


def diff(before: str, after: str, *, by: str = "host", top: int = 10, samples: int = 2) -> None:
    """What BEFORE has that AFTER has not, and the other way round, by a column and by the rules of AFTER."""
    console = Console()
    for what, side in zip(("lost", "won"), differences(before, after, entered(by), samples), strict=True):
        words = sum(row["words"] for row in side.groups)
        console.rule(
            f"{what}: {sum(row['documents'] for row in side.groups):,} documents, {words:,.0f} words"
        )
        table = Table(by, "documents", "words", "quality")
        for row in side.groups[:top]:
            table.add_row(
                str(row[by]), f"{row['documents']:,}", f"{row['words']:,.0f}", f"{row['quality']:.3f}"
            )
        console.print(table)
        if side.rules:
            console.print(f"by rule: {tally(side.rules, top)}")
        for row in side.samples:
            console.print(f"{row['url']}\n  {' '.join(row['text'].split())[:300]}", markup=False)


def why(corpus: Path, name: str) -> None:
    """What the stages that made CORPUS said of a document: NAME is its id, or its URL."""
    rows: list[dict[str, Any]] = []
    at: Path | None = corpus
    ids = {entered(name)}
    if "://" in name:
        from crawler.urls import canonicalize, fingerprint

        if not (page := canonicalize(name)):
            raise ConfigError(f"{name!r} is no URL")
        ids = {f"{fingerprint(page):016x}"}
    while at and (lineage := Lineage.load(at)):
        of_stage = [
            row for part in parts_of(at) for file in part.verdicts for row in _said(at / file.name, ids)
        ]
        rows = [*of_stage, *rows]
        at = Path(lineage.parents[0].location) if lineage.parents else None
    if not rows:
        raise ShardError(f"{corpus}: " + (f"no stage looked at {name}" if is_corpus(corpus) else "no corpus"))
    console = Console()
    for document in dict.fromkeys(row["document"] for row in rows):
        table = Table("stage", "rule", "value", "threshold", "", "kept instead", title=document)
        table.columns[1].overflow = "fold"
        for row in (row for row in rows if row["document"] == document):
            numbers = ("" if row[column] is None else f"{row[column]:g}" for column in ("value", "threshold"))
            kept = "kept" if row["keep"] else "dropped"
            table.add_row(row["stage"], row["rule"], *numbers, kept, row["kept_instead"] or "")
        console.print(table)


def _said(path: Path, ids: set[str]) -> list[dict[str, Any]]:
    """The verdicts of documents, named by their ids or by what all ids of a page begin with."""
    table = pq.read_table(path)
    pages = pc.list_element(pc.split_pattern(table["document"], "-"), 0)
    known = pa.array([*ids])
    named = pc.or_(pc.is_in(table["document"], known), pc.is_in(pages, known))
    rows: list[dict[str, Any]] = table.filter(named).to_pylist()
    return rows
