"""NVIDIA's driver on a node: which packages are one set, what runs, and modules that are built before anything is replaced."""
