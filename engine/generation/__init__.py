"""Generations: what the releases wrote on this node, each kept as a whole, so that going back is a switch and not an install."""
