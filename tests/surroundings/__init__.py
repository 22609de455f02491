"""Every command in every surrounding that a machine may offer: what commands need, where they run, what must hold."""
