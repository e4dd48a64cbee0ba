"""One web page that shows crawl, corpus and training while they happen."""
