"""What can go wrong between a seed and a page."""

from tinylm.errors import TinylmError


class CrawlError(TinylmError):
    """The crawl cannot start or go on."""


class SeedError(CrawlError):
    """A source of seeds cannot be read; the message names the file and, where there is one, the line."""


class ServerError(CrawlError):
    """No usable Redis or Valkey server."""


class FrontierError(CrawlError):
    """The frontier cannot be used as asked."""


class FrontierFull(FrontierError):
    """The server is at its memory limit: it still drains, and takes new URLs again when it has."""


class LeaseLost(FrontierError):
    """The lease expired and the URL went to somebody else: what was fetched under it must not count."""


class WalkerLost(FrontierError):
    """Another walker has claimed the crawl since: nothing more of this one counts."""


class PageError(CrawlError):
    """What was found of a page is more than a page may hold, or its bytes cannot be read."""


class NetworkForbidden(CrawlError):
    """An address outside the allowed networks; no packet was sent to it."""


class OwnFault(CrawlError):
    """Trouble of this machine, its disk, memory, descriptors or network, that no host is to blame for."""


class NotYet(CrawlError):
    """Its turn is in `seconds`; no request was sent."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"{what}: its turn is in {seconds:.1f} s")
        self.seconds = seconds


class AddressBusy(NotYet):
    """As many connections to an address, or lookups of a domain, as are allowed."""


class RulesMissing(NotYet):
    """The rules of a host are gone, or too large to be parsed so soon after other large ones."""
