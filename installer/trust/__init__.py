"""Signing side of the TUF repository; the verifying side is engine.trust."""
