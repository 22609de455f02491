"""Patches: a file rebuilt bit by bit from an older one that the receiver has."""
