"""Signing side of the TUF repository; the verifying side is engine.trust."""

import engine.nocloud  # noqa: F401  # before securesystemslib, wherever one begins
