"""Machines with a kernel of their own, for what a container cannot have: device mapper, a TPM, a real boot.

QEMU without KVM (TCG), Debian's cloud kernel, a software TPM. A guest boots in about a quarter of a minute and is several times slower than
this host, so tests here are few and each guest is asked as much as it can tell.
"""
