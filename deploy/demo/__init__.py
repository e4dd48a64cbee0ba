"""A web on loopback: the documentation installed beside us, under several host names, with a web's faults.

sites: which hosts there are and which source file each page comes from. source: what a file documents.
markup, pages: from docstrings and READMEs to HTML. hosts: how each host behaves. server: sockets and log.
"""
