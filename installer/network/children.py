"""The environment of tools that fetch: fixed, and what this host says about the network in the form each tool reads."""

from __future__ import annotations

import os
from collections.abc import Mapping

from installer.network.host import Network

# The files that skopeo takes logins from (containers-auth.json(5)).
SKOPEO_KEPT = ("REGISTRY_AUTH_FILE", "DOCKER_CONFIG")


def network(network: Network) -> dict[str, str]:
    """Proxies and CA for tools that read them from the environment: uv, skopeo, apt, whatever speaks HTTP."""
    told = {"SSL_CERT_FILE": str(network.ca)}
    for scheme, proxy in (("http", network.proxies.http), ("https", network.proxies.https)):
        if proxy:
            told |= {f"{scheme}_proxy": proxy.given, f"{scheme.upper()}_PROXY": proxy.given}
    if network.proxies.no_proxy:
        told |= dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(network.proxies.no_proxy))
    return told


def kept(names: tuple[str, ...], environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """These of the caller's variables."""
    given = os.environ if environ is None else environ
    return {name: given[name] for name in names if given.get(name)}
