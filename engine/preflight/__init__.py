"""Whether a node is fit for a release, found out without changing it.

``probe_*`` modules look at one part of a machine and return facts; ``judge_*`` modules are pure functions from facts and an
expectation to findings. The probes run on nodes that have nothing of ours: they come over a pipe into the node's own
Python, so they, :mod:`engine.nvml` and what they import use the standard library alone and the syntax of Python 3.9.
"""
