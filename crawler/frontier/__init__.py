"""The frontier: what is known of URLs and hosts, and which may be asked next.

One transition a script, so a crash leaves before or after, never between. `Frontier` has the verbs; the
scripts are in `lua/`, with the key layout at the top of `lua/common.lua`.
"""

from crawler.frontier.frontier import Frontier
from crawler.frontier.records import SEED, Discovered, Entry, Lease, Limits
from crawler.frontier.store import connect

__all__ = ["SEED", "Discovered", "Entry", "Frontier", "Lease", "Limits", "connect"]
