"""The walker: judges each fetched page, learns from it, and says which of its links come next.

It reads the frontier's stream in order and commits shards with the stream position and its own state in one
step, so a page is in the corpus once, whoever dies when: after a crash it goes on from the committed position
with the state it had there, and what it pushed in between is pushed again, which changes nothing.
"""

import hashlib
import io
import json
import logging
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from crawler.errors import FrontierFull
from crawler.frontier import SEED, Discovered, Entry, Frontier
from crawler.frontier.spill import Spill
from crawler.page import LISTS, PATHS_TO_SITEMAPS, Page
from crawler.seeds import Seed
from crawler.traps import Traps
from crawler.urls import domain, fingerprint, locate
from ranker.config import WalkConfig
from ranker.evidence import Evidence, LinkGraph
from ranker.judge import Judge, Judged
from ranker.known import Known
from ranker.models import Open, open_model
from ranker.policy import POLICIES
from shards.document import Document, LinkRow
from shards.errors import ShardError
from shards.filters import Verdict
from shards.writer import ShardWriter
from tinylm.errors import ConfigError

_STATE_VERSION = 3
_BATCH = 64
_SMALL = 1 << 20
_REPRICED_HOSTS, _REPRICED_URLS = 64, 32
_BINARY = (
    ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".pdf", ".zip", ".gz", ".bz2", ".xz", ".tar",
    ".tgz", ".mp3", ".mp4", ".webm", ".avi", ".mov", ".exe", ".dmg", ".iso", ".css", ".js", ".woff", ".ttf",
)  # fmt: skip

log = logging.getLogger(__name__)
Links = dict[str, Discovered]
"""By URL: what a step is going to put."""


class Walker:
    """The one walker of a crawl's shards.

    Raises ConfigError for a policy or a quality model that does not exist, ShardError for a state it cannot
    go on from. `open_model` opens a quality model other than the crawl's own.
    """

    def __init__(
        self,
        frontier: Frontier,
        writer: ShardWriter,
        config: WalkConfig,
        *,
        deepest: int = 30,
        spill: Spill | None = None,
        open_model: Open = open_model,
    ) -> None:
        if config.policy not in POLICIES:
            raise ConfigError(f"policy = {config.policy!r}: there is {', '.join(sorted(POLICIES))}")
        self._frontier = frontier
        self._writer = writer
        self._config = config
        self._deepest = deepest
        self._spill = spill
        self.policy = POLICIES[config.policy]()
        self.judge = Judge(config, open_model)
        self.graph = LinkGraph()
        self.traps = Traps()
        self.dropped: Counter[str] = Counter(writer.manifest.dropped)
        self._positions: dict[str, str] = dict(writer.manifest.positions)
        self._ids, self._seeds = Known(), Known()
        self._unpushed: set[str] = set()
        self._committed_at = time.monotonic()
        self._uncommitted = 0
        self._restore()
        for what in writer.manifest.taken_down - frontier.taken_down():
            frontier.take_down(what)

    # The loop

    def walk(self, stop: Callable[[], bool], *, wait: float = 0.5) -> None:
        """Judge pages until `stop` says so and the stream is empty; then commit."""
        self._publish()
        while True:
            stopping = stop()
            judged = self.step(0.0 if stopping else wait)
            if stopping and not judged:
                break
            if not judged:
                self._publish()  # again: whoever began a crawl since then waits for it
            self.commit_if_due()
        self.commit()

    def step(self, wait: float = 0.0) -> int:
        """Judge the next entries of the stream; returns how many there were."""
        self.judge.heed(self._frontier.published("quality"))
        entries = self._frontier.read_stream(self._positions, _BATCH, wait)
        hosts: set[str] = set()
        discovered: Links = {}
        for entry in entries:
            self._take(entry, discovered, hosts)
            self._positions[entry.partition] = entry.id
        self._uncommitted += len(entries)
        if entries:
            hosts.update(self._frontier.best_ready(_REPRICED_HOSTS))
        self._reprice(hosts, discovered)
        self._price_seeds(discovered)
        self._push(discovered)
        if self._spill is not None:
            self._spill.turn()
        if hosts:
            self._frontier.steer({host: self.policy.host_index(host) for host in hosts})
        if entries:
            self._publish()
        return len(entries)

    def _take(self, entry: Entry, discovered: Links, hosts: set[str]) -> None:
        if isinstance(entry.content, Page):
            hosts.add(locate(entry.content.url).host)
            self._judge(entry.content, discovered)
        else:
            self._seed(entry.content)

    def _reprice(self, hosts: set[str], discovered: Links) -> None:
        """What was learned changes what queued URLs promise: of the best of `hosts`, at once."""
        for url in self._frontier.best_queued(hosts, _REPRICED_URLS):
            evidence = self.graph.queued(fingerprint(url))
            if evidence and url not in discovered:
                discovered[url] = Discovered(url, self._promise(url, evidence))

    def _promise(self, url: str, evidence: Evidence) -> float:
        return self.policy.promise(url, locate(url).host, evidence) * self.traps.weight(url)

    def _push(self, discovered: Mapping[str, Discovered]) -> None:
        """Queue what was discovered. Of what a full server refuses seeds are kept, links met again."""
        try:
            self._frontier.put(discovered.values())
            self._unpushed -= discovered.keys()
        except FrontierFull as error:
            links = len(discovered.keys() - self._unpushed)
            self.dropped += Counter(links_while_full=links)
            log.warning(
                "%s; %d seeds wait, %d links are left to be discovered again",
                error,
                len(self._unpushed),
                links,
            )

    # What a page was worth

    def _seed(self, seeds: list[Seed]) -> None:
        """What people say of these URLs; a seed that was given before, whole or in part, says nothing new."""
        for seed in seeds:
            number = _seed_number(seed)
            if number in self._seeds:
                continue
            self._seeds.add(number)
            if self.graph.seed(fingerprint(seed.url), seed.prior, float(np.log1p(max(0.0, seed.prior)))):
                self._unpushed.add(seed.url)

    def _price_seeds(self, discovered: Links) -> None:
        for url in self._unpushed:
            if evidence := self.graph.queued(fingerprint(url)):
                promise = self.policy.promise(url, locate(url).host, evidence)
                discovered[url] = Discovered(url, promise, SEED)

    def _judge(self, page: Page, discovered: Links) -> None:
        key = fingerprint(page.url)
        document_id = f"{key:016x}-{page.fetch_no}"
        if _number(document_id) in self._ids:
            return
        self._ids.add(_number(document_id))
        evidence = self.graph.fetched(key)
        if not page.reason and self._writer.manifest.is_taken_down(page.url, locate(page.url).host):
            page = replace(page, reason="taken_down")
        judged = self.judge(page, evidence.karma)
        hop = page.reason == "redirect" or page.reason in LISTS
        keep = judged.verdict.keep
        soft_404 = not hop and self.traps.fetched(page.url, page.content_sha256, kept=keep)
        if soft_404 and not keep:
            judged = judged._replace(verdict=Verdict(False, "soft_404"))
        worth = judged.worth
        if not hop:
            self.policy.observe(page.url, locate(page.url).host, worth, evidence)
        if not soft_404:
            self._follow(page, evidence, None if page.reason in LISTS else worth, discovered)
        self._keep(page, document_id, judged, evidence)

    def _follow(self, page: Page, evidence: Evidence, worth: float | None, discovered: Links) -> None:
        if evidence.depth >= self._deepest:
            self.dropped["trap_depth"] += len(page.links)
            return
        urls = {}
        for link in page.links:
            to_list = link.tag_path in PATHS_TO_SITEMAPS
            if link.nofollow or (link.url.partition("?")[0].lower().endswith(_BINARY) and not to_list):
                continue
            if trap := self.traps.reason(link.url):
                self.dropped[trap] += 1
            else:
                urls[fingerprint(link.url)] = link.url
        moved = page.reason == "redirect"
        found = self.graph.redirect(evidence, urls) if moved else self.graph.link(evidence, worth, urls)
        source = domain(locate(page.url).host)
        for key, target in found.items():
            url = urls[key]
            referrer = source if domain(locate(url).host) != source else ""
            discovered[url] = Discovered(url, self._promise(url, target), referrer)

    # What is kept of it

    def _keep(self, page: Page, document_id: str, judged: Judged, evidence: Evidence) -> None:
        links = [
            LinkRow(
                src_id=document_id,
                dst_url=link.url,
                anchor=link.anchor,
                tag_path=link.tag_path,
                position=position,
                nofollow=link.nofollow,
            )
            for position, link in enumerate(page.links)
        ]
        if not judged.verdict.keep:
            self.dropped[judged.verdict.reason] += 1
            self._writer.append(None, links)
            return
        document = Document(
            id=document_id,
            url=page.url,
            host=locate(page.url).host,
            fetched_at=page.fetched_at,
            status=page.status,
            content_sha256=page.content_sha256,
            language=page.language,
            language_score=page.language_score,
            title=page.title,
            text=page.text,
            extractor=page.extractor,
            opt_out=list(page.opt_out),
            quality=judged.quality,
            promise=page.promise,
            propensity=page.propensity,
            policy=self.policy.name,
            karma=evidence.karma,
            equity=evidence.equity,
            inlinks=evidence.inlinks,
            depth=evidence.depth,
            crawl_id=self._writer.manifest.crawl_id,
            quality_model=judged.model,
            novelty=judged.novelty,
            **judged.signals,
        )
        self._writer.append(document, links)

    # Committing

    def commit_if_due(self) -> None:
        """Commit when enough text or time has gathered, or before workers would have to wait for it."""
        full = self._writer.buffered_bytes >= self._config.shard_megabytes * 1e6
        waited = time.monotonic() - self._committed_at >= self._config.shard_seconds
        if full or waited or self._uncommitted >= self._frontier.backlog / 2:
            self.commit()

    def commit(self) -> None:
        """Make what was judged part of the corpus, then let the stream forget it.

        Raises ShardError if the disk is full; the stream still has everything then.
        """
        self._committed_at = time.monotonic()
        gone = self._frontier.taken_down() - self._writer.manifest.taken_down
        if self._positions == self._writer.manifest.positions and not gone:
            return
        self._uncommitted = 0
        manifest = self._writer.commit(
            self._positions, state=self._state(), dropped=self.dropped, tombstones=gone
        )
        self._frontier.trim_stream(manifest.positions)
        log.info(
            "commit %d: %d documents in %d shards", manifest.version, manifest.rows, len(manifest.shards)
        )
        self._publish()

    def _publish(self) -> None:
        rows = self._writer.manifest.rows
        self._frontier.publish(
            "walker",
            {
                "kept": rows + self._writer.buffered_rows,
                "committed": rows,
                "text_bytes": self._writer.manifest.text_bytes + self._writer.buffered_bytes,
                "shards": len(self._writer.manifest.shards),
                "dropped": dict(self.dropped),
                **self.judge.status(),
                "evidence": len(self.graph),
                "policy": self.policy.name,
                "positions": self._positions,
                "seeds_waiting": len(self._unpushed),
            },
        )

    # State

    def _state(self) -> bytes:
        plain = {
            "version": _STATE_VERSION,
            "policy": self.policy.state(),
            "unpushed": sorted(self._unpushed),
            "pushed": self._frontier.recent(),
        }
        arrays = {
            f"{owner}.{name}": value
            for owner, state in (
                ("judge", self.judge.state()),
                ("graph", self.graph.state()),
                ("traps", self.traps.state()),
            )
            for name, value in state.items()
        }
        buffer = io.BytesIO()
        arrays["plain"] = np.frombuffer(json.dumps(plain).encode(), np.uint8)
        arrays["ids"], arrays["seeds"] = self._ids.to_array(), self._seeds.to_array()
        _save(buffer, arrays)
        return buffer.getvalue()

    def _restore(self) -> None:
        state = self._writer.state()
        if state is None:
            return
        with np.load(io.BytesIO(state)) as arrays:
            plain: dict[str, Any] = json.loads(arrays["plain"].tobytes())
            if plain.get("version") != _STATE_VERSION:
                raise ShardError(
                    f"{self._writer.directory}: the walker's state has version {plain.get('version')}, not "
                    f"{_STATE_VERSION}: go on with the tinylm that wrote it, or begin another crawl"
                )
            self._ids, self._seeds = Known(map(int, arrays["ids"])), Known(map(int, arrays["seeds"]))
            for owner, part in (
                ("judge.", self.judge),
                ("graph.", self.graph),
                ("traps.", self.traps),
            ):
                names = [name for name in arrays.files if name.startswith(owner)]
                part.restore({name.removeprefix(owner): arrays[name] for name in names})
        self.policy.restore(plain["policy"])
        self._unpushed = set(plain["unpushed"])
        # The server may have lost power with us, and with it the last links of pages that count as judged.
        self._push({url: Discovered(url, promise, referrer) for url, promise, referrer in plain["pushed"]})
        self._frontier.trim_stream(self._writer.manifest.positions)


def _save(buffer: io.BytesIO, arrays: Mapping[str, Any]) -> None:
    """As `numpy.savez_compressed`, but large Bloom filters as they are: they are as good as random."""
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            stored = name.startswith("judge.novelty.") and np.asarray(array).nbytes > _SMALL
            member.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def _seed_number(seed: Seed) -> int:
    """A seed as 64 bits: the same page, given with the same prior from the same source, is the same seed."""
    words = f"{seed.url}\n{float(seed.prior)!r}\n{seed.source}".encode()
    return int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big")


def _number(document_id: str) -> int:
    """A document id as 64 bits: the fingerprint, mixed with the number of the fetch."""
    fingerprint_hex, _, fetch_no = document_id.partition("-")
    return int(fingerprint_hex, 16) ^ (int(fetch_no) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
