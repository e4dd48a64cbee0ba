"""Pages that others fetched, or we once did: WARC files, dumps of wikis."""
