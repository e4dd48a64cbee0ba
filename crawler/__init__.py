"""From seeds to pages: URLs, sources of seeds, the frontier, fetching within the rules, extraction.

Nothing leased is lost; no host is asked faster than it allows by all workers together; nothing outside the
allowed networks is ever contacted.
"""
