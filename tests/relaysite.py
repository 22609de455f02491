"""A depot and nodes that fetch from it, in namespaces: what tests and benchmarks of the relay share."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.blobs import Blobs, hash_file
from engine.trust import Target
from installer.site import piecelists
from tests.bundles import Bundle
from tests.links import CONTROL, DEPOT_PORT, RELAY_PORT, Certificates, Links, order


class RelaySite:
    """``bundle`` served by the control host of ``links``; ``place`` is readable by the web server's user."""

    def __init__(self, links: Links, place: Path, bundle: Bundle, *, lists: bool = True) -> None:
        self.links = links
        self.place = place
        self.bundle = bundle
        self.nodes = links.names[1:]
        self.certificates = Certificates(place / "site")
        self.pki = {n: self.certificates.node(n, links.address(n)) for n in self.nodes}
        (place / "root.json").write_bytes(bundle.root)
        self._lists = place / "pieces" if lists else None
        self.files = {str(p.relative_to(bundle.path)): hash_file(p) for p in bundle.path.rglob("*") if p.is_file()}
        if self._lists:
            self._make_lists(self._lists)

    def _make_lists(self, where: Path) -> None:
        depot = Blobs(self.place / "depot")
        targets = [Target(p, size, sha256) for p, (sha256, size) in self.files.items()]
        for target in targets:
            depot.path(target.sha256).parent.mkdir(parents=True, exist_ok=True)
            if not depot.has(target.sha256, target.size):
                depot.path(target.sha256).hardlink_to(self.bundle.path / target.path)
        piecelists.ensure(where, depot, targets)

    @contextmanager
    def served(self) -> Iterator[RelaySite]:
        agent = self.links.agent("control")
        agent.tell(do="depot", ca=self.certificates.authority.directory, passphrase=self.certificates.passphrase,
                   bundles=self.bundle.path.parent, address=CONTROL, port=DEPOT_PORT, lists=self._lists)  # fmt: skip
        assert "url" in agent.answer()
        try:
            yield self
        finally:
            agent.tell(do="end")
            agent.answer()

    def store(self, node: str) -> Path:
        return self.place / "nodes" / node

    def start(self, node: str, *, chain: Sequence[str] | None = None, **more: Any) -> None:
        """Tell a node to fetch; in a ``chain`` of nodes, or from the depot alone."""
        release = self.bundle.path.name
        neighbours: dict[str, Any] = {}
        if chain is not None:
            neighbours = {
                "address": self.links.address(node), "port": RELAY_PORT,
                "upstream": [self.links.address(n) for n in order(chain, node)],
                "downstream": [self.links.address(n) for n in self.nodes if n != node],
            }  # fmt: skip
        self.links.agent(node).tell(do="fetch", url=f"https://{CONTROL}:{DEPOT_PORT}/{release}", release=release,
                                    pki=self.pki[node], store=self.store(node), root=self.place / "root.json",
                                    **(neighbours | more))  # fmt: skip

    def finish(self, *nodes: str) -> dict[str, dict[str, Any]]:
        """What the nodes say when they are through."""
        return {n: self.links.agents[n].answer() for n in nodes}

    def close_relays(self, *nodes: str) -> None:
        for node in nodes:
            self.links.agents[node].tell(do="close")
            self.links.agents[node].answer()

    def forget(self) -> None:
        """Nodes are empty again."""
        shutil.rmtree(self.place / "nodes", ignore_errors=True)

    def holds(self, node: str) -> bool:
        """Whether the node's view is the bundle's content, byte for byte."""
        view = self.store(node) / "views" / self.bundle.path.name
        return {str(p.relative_to(view)): hash_file(p) for p in view.rglob("*") if p.is_file()} == {
            p: h for p, h in self.files.items() if p.startswith("content/")
        }
