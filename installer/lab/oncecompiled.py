"""Runs in nodes of the lab, in root's Python: what Ansible brings is compiled once a boot, not once a process, and garbage is not collected.

Ansible sends every task its modules in an archive, in which Python keeps no bytecode: so a node compiles the same sources for every
task. What is imported, and from where, stays the same. Written for the interpreters of nodes, so standard library alone.
"""

import _imp
import gc
import marshal
import os
import zipimport

PLACE = "/run/appliance-lab-compiled"  # root's own; gone with the next boot
_compile = zipimport._compile_source  # type: ignore[attr-defined]  # typeshed leaves it out


def _compiled(pathname, source):  # type: ignore[no-untyped-def]  # zipimport has no types, either
    if "/ansible/" not in pathname:  # ours leave nothing on a node, and tests look whether that is so
        return _compile(pathname, source)
    gc.disable()  # an eighth of what a module takes; it ends before there is garbage worth collecting
    file = f"{PLACE}/{_imp.source_hash(0, source).hex()}"
    try:
        with open(file, "rb") as stored:
            return marshal.load(stored)  # noqa: S302 (written below, by root for root)
    except (OSError, EOFError, ValueError, TypeError):
        code = _compile(pathname, source)
    try:
        os.makedirs(PLACE, mode=0o700, exist_ok=True)
        with open(f"{file}.{os.getpid()}", "wb") as new:
            marshal.dump(code, new)
        os.rename(new.name, file)
    except OSError:
        pass  # a full or read-only disk is what some test is about
    return code


if os.geteuid() == 0:
    zipimport._compile_source = _compiled  # type: ignore[attr-defined]
