"""Evidence for people: licence texts, provenance and a bill of materials that every bundle carries below ``content``.

Nodes never fetch it: its targets belong to no profile. Whoever only reads it is spared the libraries that make it (``writing``).
"""
