"""Small recorded webs for the tests of orders and of the simulator."""

import numpy as np

from ranker.replay.web import build


def make_web(links, worth, hosts=None):
    """Page i is at host `hosts[i]` and links to `links[i]`."""
    hosts = hosts or ["h"] * len(worth)
    urls = [f"http://{host}.example/{page % 3}/{page}.html" for page, host in enumerate(hosts)]
    ends = [(source, target) for source, targets in links.items() for target in targets]
    sources, targets = np.array(ends, np.int64).reshape(-1, 2).T
    columns = {"worth": np.array(worth, np.float64)}
    return build("small", np.arange(len(worth)), urls, sources, targets, columns, "worth")
