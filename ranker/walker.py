"""The walker: judges each fetched page, learns from it, and says which of its links come next.

It reads the frontier's stream in order and commits shards with the stream position and its own state in one
step, so a page is in the corpus once, whoever dies when: after a crash it goes on from the committed position
with the state it had there, and what it pushed in between is pushed again, which changes nothing.
"""

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from crawler.errors import FrontierFull
from crawler.frontier import SEED, Discovered, Entry, Frontier
from crawler.frontier.spill import Refused, Spill
from crawler.page import LISTS, PATH_OF_REFRESH, PATHS_TO_SITEMAPS, Page
from crawler.scope import LIST_MARK, SEED_MARK
from crawler.seeds.seed import Seed
from crawler.urls import canonical, domain, fingerprint, locate
from ranker.config import WalkConfig
from ranker.graph import Evidence, Fetch, Known, LinkGraph, Rows, Target
from ranker.judge.judge import Judge, Judged
from ranker.judge.quality import Open, open_model
from ranker.policy import Policy, policy_named
from ranker.state import State
from ranker.traps import HOSTS, URLS, Traps
from shards.schema import Document, FetchRow, LinkRow, document_id
from shards.text.content import Content, values
from shards.text.filters import Verdict
from shards.text.signals import GOLDEN
from shards.writer import ShardWriter
from tinylm.errors import TinylmError

# Entries of the stream that are judged, learned from and priced together.
_ENTRIES = 64
# What was learned moves all promises; priced again are so many URLs of each of the hosts about to be leased.
_REPRICED_HOSTS, _REPRICED_URLS = 64, 32
# Links and seeds of a step that are put again after the server was full: a few at first, then twice as many
# each time it takes them. With the most a step takes a second or two.
_FEWEST_AGAIN, _MOST_AGAIN = 64, 1 << 16
# Bytes of text at which a shard is committed, so that a crash costs little and shards are few; and of all
# that is held for it, links and fetches too: a page of 5 KB with 200 links takes 45 KB. At double, the 2 GB
# of docker-compose.yml are not enough for a commit's copies.
_SHARD_BYTES, _HELD_BYTES = 128e6, 384e6
# Redirects after which a seed is still one, as many as are followed of a robots.txt: to https, to www, to
# a language; with each it may lead to somebody else's host.
_SEED_MOVES = 5
# Links to files that hold no text for us cost no fetch.
_BINARY = (
    ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".ico", ".pdf", ".zip", ".gz", ".bz2", ".xz", ".tar",
    ".tgz", ".mp3", ".mp4", ".webm", ".avi", ".mov", ".exe", ".dmg", ".iso", ".css", ".js", ".woff", ".ttf",
)  # fmt: skip

log = logging.getLogger(__name__)
# By URL: its row in the graph, and what refers to it (another domain, SEED, or ""). To be priced and put.
Links = dict[str, tuple[int, str]]


class _Fetched(NamedTuple):
    """A page, what was found of it, the row of the evidence that led to it, and where it leads."""

    page: Page
    judged: Judged
    evidence: Evidence
    row: int
    links: Links

    @property
    def hop(self) -> bool:
        """Whether it is no page of its own, but leads to some: a redirect or a list."""
        return self.page.reason == "redirect" or self.page.reason in LISTS


class Walker:
    """The one walker of a crawl's shards.

    Raises ConfigError for a policy or a quality model that does not exist, ShardError for a state it cannot
    go on from. Nothing is followed beyond `deepest` links from a seed. `open_model` opens a quality model
    other than the crawl's own.
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
        self._frontier = frontier
        self._deepest = deepest
        self._writer = writer
        self._config = config
        self._spill = spill
        self.graph = LinkGraph()
        self.policy: Policy = policy_named(config.policy)(self.graph)
        self.judge = Judge(config, open_model)
        self.traps = Traps()
        self.dropped: Counter[str] = Counter(writer.manifest.dropped)
        self._positions: dict[str, str] = dict(writer.manifest.positions)
        self._ids, self._seeds = Known(), Known()
        self._unpushed: set[str] = set()
        self._refused = spill.refused if spill else Refused.in_memory()
        self._full, self._again = False, _MOST_AGAIN
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
            judged = self.step(0.0 if stopping or (self._refused and not self._full) else wait)
            if stopping and not judged:
                break
            if not judged:
                self._publish()  # again: whoever began a crawl since then waits for it
            self.commit_if_due()
        self.commit()

    def step(self, wait: float = 0.0) -> int:
        """Judge the next entries of the stream; returns how many there were."""
        self._frontier.hold()
        self._frontier.heed_rules()
        self.judge.heed(self._frontier.published("quality"))
        entries = self._frontier.read_stream(self._positions, _ENTRIES, wait)
        fetched: list[_Fetched] = []
        no_memory = False
        for entry in entries:
            self._frontier.hold()
            try:
                fetched += self._take(entry)
            except MemoryError:
                # It comes again when the others are on disk, and by itself it is set aside.
                if no_memory := bool(fetched or self._writer.buffered_bytes):
                    break
                self._set_aside(entry, "there is no memory for it")
            self._positions[entry.partition] = entry.id
            self._uncommitted += 1
        self._write(fetched)
        self.policy.learn()
        self.graph.release(each.row for each in fetched)
        hosts = {locate(each.page.url).host for each in fetched}
        if entries:
            hosts.update(self._frontier.best_ready(_REPRICED_HOSTS))
        linked = {url: link for each in fetched for url, link in each.links.items()}
        waiting = self._refused.best(self._again)
        self._push(self._priced(linked, hosts, waiting), linked, waiting)
        if self._spill is not None:
            self._spill.turn()
        self._steer(hosts, linked)
        if no_memory:
            self.commit()
        if entries:
            self._publish()
        return len(entries)

    def _steer(self, hosts: set[str], linked: Links) -> None:
        """Say what the policy adds for `hosts`, and for those that are linked if it adds anything."""
        names = sorted(hosts | {locate(url).host for url in linked})
        if names:
            numbers = np.array([self.graph.host_number(name) for name in names], np.int64)
            bonus = dict(zip(names, self.policy.host_bonus(numbers).tolist(), strict=True))
            self._frontier.steer({name: added for name, added in bonus.items() if added or name in hosts})

    def _take(self, entry: Entry) -> list[_Fetched]:
        """Judge an entry; what of it is to be written. One that cannot be judged is set aside.

        What a person sees to (a scorer, a server, a disk that fails) is raised, and so is MemoryError.
        """
        if entry.fault:
            self._set_aside(entry, entry.fault)
            return []
        try:
            if isinstance(entry.content, Page):
                found = self._judge(entry.content)
                return [found] if found else []
            self._seed(entry.content)
        except (TinylmError, MemoryError):
            raise
        except Exception as error:
            log.warning("an entry that cannot be judged", exc_info=error)
            self._set_aside(entry, f"{type(error).__name__}: {str(error)[:200]}")
        return []

    def _set_aside(self, entry: Entry, reason: str) -> None:
        log.warning("%s is set aside, see `tinylm frontier dead`: %s", entry.name, reason)
        self._frontier.set_aside(entry, reason)

    def _priced(self, linked: Links, hosts: set[str], waiting: list[Discovered]) -> list[Discovered]:
        """What `linked`, the best queued URLs of `hosts` and what was not put yet promise now."""
        others = [(url, "") for url in self._frontier.best_queued(hosts, _REPRICED_URLS) if url not in linked]
        others += [(url, SEED) for url in islice(self._unpushed, self._again)]
        others += [(url, referrer) for url, _, referrer in waiting]
        priced = [(url, row, referrer) for url, (row, referrer) in linked.items()]
        # Fetched meanwhile: only that somebody refers to them still says something.
        fetched: list[Discovered] = []
        for url, referrer in others:
            if (row := self.graph.queued(fingerprint(url))) is not None:
                priced.append((url, row, referrer))
            elif referrer:
                fetched.append(Discovered(url, 0.0, referrer))
        if not priced:
            return fetched
        promises = self.policy.promise(np.array([row for _, row, _ in priced], np.int64))
        return fetched + [
            Discovered(url, promise * self.traps.weight(url), referrer)
            for (url, _, referrer), promise in zip(priced, np.clip(promises, 0.0, 1.0).tolist(), strict=True)
        ]

    def _push(
        self, discovered: list[Discovered], new: Container[str], waiting: Sequence[Discovered] = ()
    ) -> None:
        """Queue what was discovered. What a full server refuses of `new` waits, as seeds and `waiting` do."""
        try:
            self._frontier.put(discovered)
        except FrontierFull as error:
            refused = [each for each in discovered if each.url in new and each.referrer != SEED]
            self.dropped += Counter(links_while_full=self._refused.add(refused))
            if not self._full:
                log.warning("%s; links and seeds wait until it has", error)
            self._full, self._again = True, _FEWEST_AGAIN
            return
        self._unpushed -= {each.url for each in discovered if each.referrer == SEED}
        self._refused.put(waiting)
        if discovered:
            self._full, self._again = False, min(2 * self._again, _MOST_AGAIN)

    # What a page was worth

    def _seed(self, seeds: list[Seed]) -> None:
        """Learn what people say of these URLs. A seed that was given before says nothing new."""
        for seed in seeds:
            # The same page, given with the same prior from the same source, is the same seed.
            words = f"{seed.url}\n{float(seed.prior)!r}\n{seed.source}".encode()
            number = int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "big")
            if number in self._seeds:
                continue
            target, cash = Target(fingerprint(seed.url), seed.url), float(np.log1p(max(0.0, seed.prior)))
            if self.graph.seed(target, seed.prior, cash, seed.source, seed.precision) is not None:
                self._unpushed.add(seed.url)
            self._seeds.add(number)

    def _judge(self, page: Page) -> _Fetched | None:
        """Judge a page; graph, traps and policy learn of it. None if that was done before."""
        # From here on it is the page that counts, whichever of its addresses was asked for.
        page = replace(page, url=canonical(page.url))
        target = Target(fingerprint(page.url), page.url)
        fetch = target.key ^ page.fetch_no * GOLDEN % 2**64  # 64 bits instead of an id's string
        if fetch in self._ids:
            return None
        if not page.reason and self._writer.manifest.is_taken_down(page.url, locate(page.url).host):
            page = replace(page, reason="taken_down")
        # Before anything else: it reads what a stranger wrote, and what it raises has then changed nothing.
        queued = self.graph.queued(target.key)
        votes = () if queued is None else (self.graph.karma[queued], self.graph.precision[queued])
        judged = self.judge(page, *map(float, votes))
        row = self.graph.take(target, page.source)
        try:
            fetched = self._learn(_Fetched(page, judged, self.graph.evidence(row), row, {}))
        except Exception:
            self.graph.release([row])
            raise
        self._ids.add(fetch)
        return fetched

    def _learn(self, fetched: _Fetched) -> _Fetched:
        """Tell traps, graph and policy of a page that was judged, and find where it leads."""
        page, judged, evidence, row, _ = fetched
        keep = judged.verdict.keep
        soft_404 = not fetched.hop and self.traps.fetched(page.url, page.content_sha256, kept=keep)
        if soft_404 and not keep:
            judged = judged._replace(verdict=Verdict(False, "soft_404"))
        targets = [] if soft_404 else self._targets(page, evidence.depth)
        links, new = self._follow(page, row, judged.worth, targets)
        if not fetched.hop:
            self.policy.observe(Fetch(row, judged.worth, targets, new))
        return fetched._replace(judged=judged, links=links)

    def _targets(self, page: Page, depth: int) -> list[Target]:
        """Where the links of a page lead that are worth following."""
        if depth >= self._deepest:
            self.dropped["trap_depth"] += len(page.links)
            return []
        is_redirect, urls = page.reason == "redirect", {link.url for link in page.links}
        moves = [link.url for link in page.links if is_redirect or link.tag_path == PATH_OF_REFRESH][:1]
        is_seed, is_list = page.url + SEED_MARK, page.url + LIST_MARK
        of_page = self._frontier.marked([is_seed, is_list] if moves else [])
        if not of_page.get(is_seed) or depth >= _SEED_MOVES:
            moves = []
        lists = {link.url for link in page.links if link.tag_path in PATHS_TO_SITEMAPS}
        lists |= urls if of_page.get(is_list) and is_redirect else set()
        out_of_scope = self._frontier.out_of_scope(urls.difference(moves), lists)
        targets: dict[int, Target] = {}
        for link in page.links:
            is_file = link.url.partition("?")[0].lower().endswith(_BINARY) and link.url not in lists
            if link.nofollow or is_file:
                continue
            if reason := out_of_scope.get(link.url) or self.traps.reason(link.url):
                self.dropped[reason] += 1
            else:
                # Of two addresses of a page the first is asked for.
                key = fingerprint(link.url)
                targets.setdefault(key, Target(key, link.url, link.anchor, link.tag_path))
        # Each redirect costs a fetch, so budgets bound them; domains that shorten links do nothing else.
        found = list(targets.values())
        self._unpushed.update(target.url for target in found if target.url in moves)
        return found if is_redirect else self._admitted(page, found)

    def _admitted(self, page: Page, targets: list[Target]) -> list[Target]:
        """Of `targets` those that the page's domain may name: names cost their inventor nothing."""
        source, admitted = domain(locate(page.url).host), targets
        hosts = {target.key: locate(target.url).host for target in targets}
        if new := dict.fromkeys(host for host in hosts.values() if not self.graph.knows(host)):
            named = set(islice(new, self.traps.left(HOSTS, source)))
            self.traps.named(HOSTS, source, len(named))
            refused = new.keys() - named
            admitted = [target for target in targets if hosts[target.key] not in refused]
        known = admitted
        if not self.traps.left(URLS, source):
            known = [target for target in admitted if self.graph.queued(target.key) is not None]
        self.dropped += Counter(
            trap_new_hosts=len(targets) - len(admitted), trap_new_urls=len(admitted) - len(known)
        )
        return known

    def _follow(self, page: Page, row: int, worth: float, targets: list[Target]) -> tuple[Links, Rows]:
        """Note that a page links to `targets`.

        Returns its links to what was not fetched before, and the rows of what nobody had met.
        """
        if page.reason == "redirect":
            moved = [self.graph.redirect(row, target) for target in targets]
            rows, new = np.array([row for row in moved if row is not None], np.int64), np.zeros(0, np.int64)
        else:
            rows, new = self.graph.link(row, page.url, None if page.reason in LISTS else worth, targets)
        urls = {target.key: target.url for target in targets}
        links: Links = {}
        source = domain(locate(page.url).host)
        self.traps.named(URLS, source, len(new))
        for to, key in zip(rows.tolist(), self.graph.key[rows].tolist(), strict=True):
            elsewhere = domain(locate(urls[key]).host) != source
            links[urls[key]] = (to, source if elsewhere else "")
        return links, new

    # What is kept of it

    def _write(self, fetched: list[_Fetched]) -> None:
        """Give what was judged to the writer, with what the policy promised before it learns from it."""
        rows = np.array([each.row for each in fetched if not each.hop], np.int64)
        explained = self.policy.explain(rows) if len(rows) else []
        number = 0
        for each in fetched:
            page, judged, evidence = each.page, each.judged, each.evidence
            ingredients: dict[str, float] = {}
            if not each.hop:
                ingredients = {name: float(added[number]) for name, added in explained}
                number += 1
            keep, reason = judged.verdict
            if not keep:
                self.dropped[reason] += 1
            about: dict[str, Any] = {
                "id": document_id(fingerprint(page.url), page.fetch_no),
                "url": page.url,
                "host": locate(page.url).host,
                "fetched_at": page.fetched_at,
                "status": page.status,
                "promise": page.promise,
                "propensity": page.propensity,
                "policy": self.policy.name,
            }
            links = [
                LinkRow(
                    src_id=about["id"],
                    dst_url=canonical(link.url),
                    anchor=link.anchor,
                    tag_path=link.tag_path,
                    position=position,
                    nofollow=link.nofollow,
                )
                for position, link in enumerate(page.links)
            ]
            fetch = FetchRow(
                **about,
                reason=reason,
                worth=judged.worth,
                expected=sum(ingredients.values()),
                ingredients=ingredients,
                source=evidence.source,
                source_hops=evidence.source_hops,
            )
            document = self._document(about, page, judged, evidence) if keep else None
            self._writer.append(document, links, fetch)

    def _document(self, about: dict[str, Any], page: Page, judged: Judged, evidence: Evidence) -> Document:
        return Document(
            **about,
            **values(Content, page),
            **evidence._asdict(),
            quality=judged.quality,
            crawl_id=self._writer.manifest.crawl_id,
            quality_model=judged.model,
            novelty=judged.novelty,
            signals=judged.signals,
        )

    # Committing

    def commit_if_due(self) -> None:
        """Commit when enough has gathered, or enough time, or before workers would have to wait for it."""
        writer = self._writer
        full = writer.buffered_text >= _SHARD_BYTES or writer.buffered_bytes >= _HELD_BYTES
        waited = time.monotonic() - self._committed_at >= self._config.shard_seconds
        if full or waited or self._uncommitted >= self._frontier.config.backlog / 2:
            self.commit()

    def commit(self) -> None:
        """Make what was judged part of the corpus, then let the stream forget it.

        Raises ShardError if the disk is full, WalkerLost if another walks the crawl since; the stream still
        has everything then.
        """
        self._committed_at = time.monotonic()
        gone = self._frontier.taken_down() - self._writer.manifest.taken_down
        if self._positions == self._writer.manifest.positions and not gone:
            return
        self._uncommitted = 0
        self._frontier.hold(now=True)
        manifest = self._writer.commit(
            self._positions,
            state=self._state(),
            dropped=self.dropped,
            tombstones=gone,
            check=lambda: self._frontier.hold(now=True),
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
                "text_bytes": self._writer.manifest.text_bytes + self._writer.buffered_text,
                "shards": len(self._writer.manifest.shards),
                "dropped": dict(self.dropped),
                **self.judge.status(),
                "evidence": len(self.graph),
                "policy": self.policy.name,
                "positions": self._positions,
                "seeds_waiting": len(self._unpushed),
                "links_waiting": len(self._refused),
                "full": self._full,
            },
        )

    # State

    def _state(self) -> bytes:
        plain = {
            "policy": self.policy.name,
            "unpushed": sorted(self._unpushed),
            "pushed": self._frontier.recent(),
            "refused": [] if self._spill else self._refused.best(len(self._refused)),
        }
        parts = {
            "judge": self.judge.state(),
            "graph": self.graph.state(),
            "policy": self.policy.state(),
            "traps": self.traps.state(),
            "known": {"ids": self._ids.to_array(), "seeds": self._seeds.to_array()},
        }
        return State(plain, parts).to_bytes()

    def _restore(self) -> None:
        data = self._writer.state()
        if data is None:
            return
        plain, parts = State.from_bytes(data, self._writer.directory)
        self._ids, self._seeds = (Known(map(int, parts["known"][name])) for name in ("ids", "seeds"))
        self.judge.restore(parts["judge"])
        self.graph.restore(parts["graph"])
        self.traps.restore(parts["traps"])
        if plain["policy"] == self.policy.name:
            self.policy.restore(parts.get("policy", {}))
        else:
            log.warning("policy %s begins to learn here: so far it was %s", self.policy.name, plain["policy"])
        self._unpushed = set(plain["unpushed"])
        self._refused.add([Discovered(*each) for each in plain.get("refused", ())])
        # The server may have lost power with us, and with it the last links of pages that count as judged.
        pushed = [Discovered(*each) for each in plain["pushed"]]
        self._push(pushed, {each.url for each in pushed})
        self._frontier.trim_stream(self._writer.manifest.positions)
