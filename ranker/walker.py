"""The walker: judges each fetched page, learns from it, and says which of its links come next.

It reads the frontier's stream in order and commits shards with the stream position and its own state in one
step, so a page is in the corpus once, whoever dies when: after a crash it goes on from the committed position
with the state it had there, and what it pushed in between is pushed again, which changes nothing.
"""

import io
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from crawler.errors import FrontierFull
from crawler.frontier import Discovered, Entry, Frontier
from crawler.page import Page
from crawler.seeds import Seed
from crawler.traps import Traps
from crawler.urls import fingerprint, locate
from ranker.config import WalkConfig
from ranker.evidence import Evidence, LinkGraph
from ranker.known import Known
from ranker.policy import POLICIES
from ranker.quality import HashedLinear
from shards.document import Document, LinkRow
from shards.errors import ShardError
from shards.filters import Verdict, judge
from shards.writer import ShardWriter
from tinylm.errors import ConfigError

_STATE_VERSION = 2
_BATCH = 64
_REPRICED_HOSTS, _REPRICED_URLS = 64, 32
_FULL_WORTH_WORDS = 300
_BINARY = (
    ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".pdf", ".zip", ".gz", ".bz2", ".xz", ".tar",
    ".tgz", ".mp3", ".mp4", ".webm", ".avi", ".mov", ".exe", ".dmg", ".iso", ".css", ".js", ".woff", ".ttf",
)  # fmt: skip

log = logging.getLogger(__name__)


class Walker:
    """The one walker of a crawl's shards.

    Raises ConfigError for a policy that does not exist, ShardError for a state it cannot go on from.
    """

    def __init__(
        self, frontier: Frontier, writer: ShardWriter, config: WalkConfig, *, deepest: int = 30
    ) -> None:
        if config.policy not in POLICIES:
            raise ConfigError(f"policy = {config.policy!r}: there is {', '.join(sorted(POLICIES))}")
        self._frontier = frontier
        self._writer = writer
        self._config = config
        self._deepest = deepest
        self.policy = POLICIES[config.policy]()
        self.quality = HashedLinear()
        self.graph = LinkGraph()
        self.traps = Traps()
        self.dropped: Counter[str] = Counter(writer.manifest.dropped)
        self._positions: dict[str, str] = dict(writer.manifest.positions)
        self._ids, self._contents = Known(), Known()
        self._recent_quality = 0.0
        self._committed_at = time.monotonic()
        self._uncommitted = 0
        self._idle = False
        self._restore()

    # The loop

    def walk(self, stop: Callable[[], bool], *, wait: float = 0.5) -> None:
        """Judge pages until `stop` says so and the stream is empty; then commit."""
        while True:
            stopping = stop()
            judged = self.step(0.0 if stopping else wait)
            if stopping and not judged:
                break
            if not judged and not self._idle:
                self._publish(idle=True)
            self.commit_if_due()
        self.commit()

    def step(self, wait: float = 0.0) -> int:
        """Judge the next entries of the stream; returns how many there were."""
        entries = self._frontier.read_stream(self._positions, _BATCH, wait)
        hosts: set[str] = set()
        discovered: dict[str, float] = {}
        for entry in entries:
            self._take(entry, discovered, hosts)
            self._positions[entry.partition] = entry.id
        self._uncommitted += len(entries)
        if entries:
            hosts.update(self._frontier.best_ready(_REPRICED_HOSTS))
        self._reprice(hosts, discovered)
        self._push(discovered)
        if hosts:
            self._frontier.steer({host: self.policy.host_index(host) for host in hosts})
        if entries:
            self._publish()
        return len(entries)

    def _take(self, entry: Entry, discovered: dict[str, float], hosts: set[str]) -> None:
        if isinstance(entry.content, Page):
            hosts.add(locate(entry.content.url).host)
            self._judge(entry.content, discovered)
        else:
            self._seed(entry.content, discovered)

    def _reprice(self, hosts: set[str], discovered: dict[str, float]) -> None:
        """What was learned changes what queued URLs promise: of the best of `hosts`, at once."""
        for url in self._frontier.best_queued(hosts, _REPRICED_URLS):
            evidence = self.graph.queued(fingerprint(url))
            if evidence and url not in discovered:
                discovered[url] = self._promise(url, evidence)

    def _promise(self, url: str, evidence: Evidence) -> float:
        return self.policy.promise(url, locate(url).host, evidence) * self.traps.weight(url)

    def _push(self, discovered: Mapping[str, float]) -> None:
        try:
            self._frontier.put(Discovered(url, promise) for url, promise in discovered.items())
        except FrontierFull as error:
            self.dropped["links_while_full"] += len(discovered)
            log.warning("%s; %d links are left to be discovered again", error, len(discovered))

    # What a page was worth

    def _seed(self, seeds: list[Seed], discovered: dict[str, float]) -> None:
        for url, prior, _ in seeds:
            evidence = self.graph.seed(fingerprint(url), prior, float(np.log1p(max(0.0, prior))))
            if evidence:
                discovered[url] = self.policy.promise(url, locate(url).host, evidence)

    def _judge(self, page: Page, discovered: dict[str, float]) -> None:
        key = fingerprint(page.url)
        document_id = f"{key:016x}-{page.fetch_no}"
        if _number(document_id) in self._ids:
            return
        self._ids.add(_number(document_id))
        evidence = self.graph.fetched(key)
        verdict = self._verdict(page)
        soft_404 = self.traps.fetched(page.url, page.content_sha256, kept=verdict.keep)
        if soft_404 and not verdict.keep:
            verdict = Verdict(False, "soft_404")
        quality = self.quality.score(page.text) if page.text else 0.0
        worth = quality * min(1.0, len(page.text.split()) / _FULL_WORTH_WORDS) if verdict.keep else 0.0
        if page.text:
            chosen = evidence.karma > 0 and verdict.keep
            self.quality.learn(page.text, chosen=chosen, weight=1 + float(np.log1p(max(0, evidence.karma))))
        self.policy.observe(page.url, locate(page.url).host, worth, evidence)
        if not soft_404:
            self._follow(page, evidence, worth, discovered)
        self._keep(page, document_id, verdict, quality, evidence)

    def _verdict(self, page: Page) -> Verdict:
        config = self._config
        if page.reason:
            return Verdict(False, page.reason)
        if config.obey_opt_out and any(
            signal.endswith(("noai", "noindex", "none")) for signal in page.opt_out
        ):
            return Verdict(False, "opt_out")
        if config.languages and (
            page.language not in config.languages or page.language_score < config.language_score
        ):
            return Verdict(False, "language")
        if _content(page.content_sha256) in self._contents:
            return Verdict(False, "duplicate")
        return judge(page.text)

    def _follow(self, page: Page, evidence: Evidence, worth: float, discovered: dict[str, float]) -> None:
        if evidence.depth >= self._deepest:
            self.dropped["trap_depth"] += len(page.links)
            return
        urls = {}
        for link in page.links:
            if link.nofollow or link.url.partition("?")[0].lower().endswith(_BINARY):
                continue
            if trap := self.traps.reason(link.url):
                self.dropped[trap] += 1
            else:
                urls[fingerprint(link.url)] = link.url
        for key, target in self.graph.link(evidence, worth, urls).items():
            url = urls[key]
            discovered[url] = self._promise(url, target)

    # What is kept of it

    def _keep(
        self, page: Page, document_id: str, verdict: Verdict, quality: float, evidence: Evidence
    ) -> None:
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
        if not verdict.keep:
            self.dropped[verdict.reason] += 1
            self._writer.append(None, links)
            return
        self._contents.add(_content(page.content_sha256))
        self._recent_quality += 0.02 * (quality - self._recent_quality)
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
            quality=quality,
            promise=page.promise,
            propensity=page.propensity,
            policy=self.policy.name,
            karma=evidence.karma,
            equity=evidence.equity,
            inlinks=evidence.inlinks,
            depth=evidence.depth,
            crawl_id=self._writer.manifest.crawl_id,
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
        if self._positions == self._writer.manifest.positions:
            return
        self._uncommitted = 0
        manifest = self._writer.commit(self._positions, state=self._state(), dropped=self.dropped)
        self._frontier.trim_stream(manifest.positions)
        log.info(
            "commit %d: %d documents in %d shards", manifest.version, manifest.rows, len(manifest.shards)
        )
        self._publish()

    def _publish(self, *, idle: bool = False) -> None:
        self._idle = idle
        rows = self._writer.manifest.rows
        self._frontier.publish(
            "walker",
            {
                "kept": rows + self._writer.buffered_rows,
                "committed": rows,
                "text_bytes": self._writer.manifest.text_bytes + self._writer.buffered_bytes,
                "shards": len(self._writer.manifest.shards),
                "dropped": dict(self.dropped),
                "quality": self._recent_quality,
                "evidence": len(self.graph),
                "policy": self.policy.name,
                "idle": idle,
            },
        )

    # State

    def _state(self) -> bytes:
        plain = {
            "version": _STATE_VERSION,
            "policy": self.policy.state(),
            "quality": self._recent_quality,
        }
        arrays = {
            f"{owner}.{name}": value
            for owner, state in (
                ("quality", self.quality.state()),
                ("graph", self.graph.state()),
                ("traps", self.traps.state()),
            )
            for name, value in state.items()
        }
        buffer = io.BytesIO()
        arrays["plain"] = np.frombuffer(json.dumps(plain).encode(), np.uint8)
        arrays["ids"], arrays["contents"] = self._ids.to_array(), self._contents.to_array()
        np.savez_compressed(buffer, **arrays)
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
            self._ids, self._contents = Known(map(int, arrays["ids"])), Known(map(int, arrays["contents"]))
            for owner, part in (
                ("quality.", self.quality),
                ("graph.", self.graph),
                ("traps.", self.traps),
            ):
                names = [name for name in arrays.files if name.startswith(owner)]
                part.restore({name.removeprefix(owner): arrays[name] for name in names})
        self.policy.restore(plain["policy"])
        self._recent_quality = plain["quality"]
        self._frontier.trim_stream(self._writer.manifest.positions)


def _content(sha256: str) -> int:
    return int(sha256[:16], 16)


def _number(document_id: str) -> int:
    """A document id as 64 bits: the fingerprint, mixed with the number of the fetch."""
    fingerprint_hex, _, fetch_no = document_id.partition("-")
    return int(fingerprint_hex, 16) ^ (int(fetch_no) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
