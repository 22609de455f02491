"""A site: its inventory, its installs and their records."""
