"""What crosses the gap and how: deltas against what a site has, and the site's receipts."""

import engine.nocloud  # noqa: F401  # before securesystemslib, wherever one begins
