"""`tinylm demo`, and the web it crawls: the documentation installed beside us, with a real web's faults.

run: the phases of the demo. web: sockets and log. hosts: how each host behaves. pages, docstrings: sources as
HTML. sites: which hosts there are, and the source of each page. dump: the votes. audit: a crawler's manners.
"""
