"""A site that knows IPv6 addresses alone: content, certificates, firewall, proof and answers."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

import pytest

from installer.lab.lab import down, up
from tests.demo import Demo
from tests.e2e.fleet import Fleet

pytestmark = [pytest.mark.nodes, pytest.mark.slow]


@pytest.fixture(scope="module")
def fleet(demo: Demo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A gateway and a node that serves, in a lab that has both families; the site is given one of them."""
    name = f"six-{os.getpid()}"
    lab = up(name, nodes=2, ipv6=True, owner_pid=os.getpid())
    try:
        yield Fleet(demo, lab.over_ipv6(), tmp_path_factory.mktemp("six"), 7463, {"batch": "100%"})
    finally:
        down(name)


def test_a_site_of_ipv6_addresses_is_installed_proven_and_answers(fleet: Fleet, demo: Demo) -> None:
    """The install proves a token over mutual TLS, a refusal without a certificate, and that nothing gets out."""
    assert all(":" in n.address for n in fleet.lab.nodes) and ":" in fleet.lab.host_address
    done = fleet.install(demo.bundle, site=fleet.site(runtime="vllm"))
    assert done["good"], done["failures"]
    assert fleet.ask()
    address = fleet.lab.host_address
    rules = fleet.on("gpu-1", "nft list table inet appliance")
    assert f"ip6 saddr {address}" in rules or f"ip6 saddr {{ {address}" in rules
    # Nobody of the other family is let in, for the site names nobody there.
    assert "ip saddr" not in rules
    listening = fleet.on("gw-1", "ss --no-header --listening --tcp --numeric 'sport = :8443'")
    assert "[::]:8443" in listening and "0.0.0.0:8443" not in listening
    # And what no rule names is refused in this family, too.
    probe = f"import socket; socket.create_connection(({address!r}, 9), 3)"
    said = fleet.on("gpu-1", f"python3 -c {shlex.quote(probe)} 2>&1 || true", check=False)
    assert "PermissionError" in said or "refused" in said.lower() or "No route" in said, said
