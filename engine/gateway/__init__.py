"""The gateway: who may ask which model, how much, over which API, and what is written down.

Stateless workers (``worker/``) stand behind nginx; one ledger process (``ledger/``) holds identities, budgets and slots and writes the
audit chain (``audit/``). Nothing here is imported by the rest of the engine: only gateway hosts install what it needs
(requirements/gateway.txt), and ``engine.gateway.cli`` is the one way in.
"""
