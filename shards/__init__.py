"""The corpus on disk: documents, links and fetches in Parquet, listed in a manifest.

A shard is complete or absent; a row is there once; a reader can stop and go on at the same row.
"""
