"""Where a crawl begins: URLs that people chose, each with a prior and its source."""
