"""What hostile bytes may do to the parsers that run before, or without, trust."""
