"""Joint search and rank: what a page was worth, and from that what its links promise.

Own text is only ever a reward, never a look-ahead: a page is judged after its fetch was counted.
"""
