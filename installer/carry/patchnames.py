"""How patches are called in a delta; apart, because what only asks for the names need not load what reads a list."""

LIST = "metadata/patches.json"
KIND = "patch"  # of a patch that is carried like a file of the release
