"""The laboratory: recorded webs, crawled again in any order."""
