"""Batch work over corpora: stages that read a snapshot and commit a new corpus, part by part."""
