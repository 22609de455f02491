"""The hub's own client, made to go the way of this host."""

from __future__ import annotations

from installer.network.connections import context
from installer.network.host import Network


def lead(network: Network, endpoint: str) -> None:
    """Make the hub's client go the way of this host, and look at no variable of the environment for it."""
    import httpx2  # noqa: PLC0415 - slow to import
    from huggingface_hub import constants, errors, set_client_factory  # noqa: PLC0415

    def online(request: httpx2.Request) -> None:  # as the client's own factory has it
        if constants.is_offline_mode():
            raise errors.OfflineModeIsEnabled(f"cannot reach {request.url.host}")

    def login(request: httpx2.Request) -> httpx2.Request:
        found = network.login(str(request.url))
        if found and "authorization" not in request.headers:
            request.headers["authorization"] = found.basic
        return request

    def client() -> httpx2.Client:
        return httpx2.Client(
            event_hooks={"request": [online]},
            follow_redirects=True,
            timeout=None,
            trust_env=False,
            verify=context(network),
            auth=login,
            proxy=proxy.given if (proxy := network.proxies.for_url(endpoint)) else None,
        )

    set_client_factory(client)
