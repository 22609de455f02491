"""What is asked of nodes that serve: how they are, what a support person needs, new certificates, and to be taken apart.

Like preflight, each errand reaches a node as text on standard input of its own Python and leaves no file of its own: standard
library only. (A node whose installed engine is broken must still be able to answer.)
"""
