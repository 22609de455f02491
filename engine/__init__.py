"""Node side of appliance, and what both sides of the gap must agree on. Never imports installer."""

__version__ = "0.1.0"
