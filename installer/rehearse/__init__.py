"""Rehearsal: the real install of a real bundle on throw-away nodes, watched for every attempt to reach out."""
