"""The downloader's way out: pools through the right proxy, with the trusted CA, and logins by host."""

from __future__ import annotations

import ssl
import threading

import urllib3

from engine.download import TIMEOUT, WORKERS
from engine.errors import InputError
from installer.network.host import Network
from installer.network.proxies import Proxy


class Connections:
    """Pools by proxy. Safe to use from several threads."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._pools: dict[Proxy | None, urllib3.PoolManager] = {}
        self._lock = threading.Lock()

    def pool(self, url: str) -> urllib3.PoolManager:
        """Connections for an address, through its proxy where it has one."""
        proxy = self._network.proxies.for_url(url)
        with self._lock:
            if proxy not in self._pools:
                self._pools[proxy] = self._make(proxy)
            return self._pools[proxy]

    def login(self, url: str) -> dict[str, str]:
        """The header that logs in at an address, if this host has a login for it."""
        login = self._network.login(url)
        return {"Authorization": login.basic} if login else {}

    def _make(self, proxy: Proxy | None) -> urllib3.PoolManager:
        if proxy is None:
            return urllib3.PoolManager(maxsize=WORKERS, timeout=TIMEOUT, ssl_context=context(self._network))
        # urllib3 takes a login out of the proxy's address nowhere; it wants the header.
        login = f"{proxy.user}:{proxy.password}" if proxy.user or proxy.password else None
        return urllib3.ProxyManager(
            proxy.address,
            proxy_headers=urllib3.make_headers(proxy_basic_auth=login) if login else None,
            proxy_ssl_context=context(self._network),
            maxsize=WORKERS,
            timeout=TIMEOUT,
            ssl_context=context(self._network),
        )


def context(network: Network) -> ssl.SSLContext:
    """TLS that trusts the CAs of ``network`` and no list of Python's.

    Raises:
        InputError: they cannot be read.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        made.load_verify_locations(cafile=str(network.ca))
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"cannot read the trusted certificates: {getattr(error, 'strerror', None) or 'not PEM'}",
            where=str(network.ca),
            remedy="Install ca-certificates, or name a PEM file in SSL_CERT_FILE.",
        ) from None
    return made
