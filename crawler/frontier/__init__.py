"""The frontier: what is known of URLs and hosts, and which may be asked next.

One Lua script a transition, so a crash leaves before or after, never between. `Frontier` is a thin client;
the rules are in `lua/`, with the key layout at the top of `lua/common.lua`.
"""

from crawler.frontier.frontier import Discovered, Entry, Frontier, Lease, Limits, connect

__all__ = ["Discovered", "Entry", "Frontier", "Lease", "Limits", "connect"]
