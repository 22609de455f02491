"""Throw-away nodes: systemd-nspawn machines for demo, Molecule, rehearsal and tests."""
