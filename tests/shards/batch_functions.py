"""Functions of a user, for `tinylm shards map`."""

import os
import time


def upper(document):
    """In capitals; without sevens, and with an error for what has no text."""
    if "17" in document["text"]:
        raise ValueError("no seventeens")
    return {"text": document["text"].upper()} if "7" not in document["text"] else None


def slow(document):
    """As it was, after a while."""
    time.sleep(0.002)
    return True


def dies(document):
    """Its process ends at one document."""
    if document["id"].startswith("0000000000000005"):
        os._exit(7)
    return True


def wrong(document):
    """What no column takes."""
    return {"host": "h.example"} if document["id"] < "0000000000000002" else {"nothing": 1}
