"""Certificates that the control host itself needs: the depot's, and a client's for the proof."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from installer.pki import Authority, utc_now
from installer.pki.authority import OWN_CLIENT
from installer.site.serve import ServerTls

DEPOT_DAYS = 30  # made anew for every install; nobody has to renew it


@dataclass(frozen=True)
class ClientTls:
    """A client certificate in files."""

    certificate: Path
    key: Path
    ca: Path

    def context(self, *, with_certificate: bool = True) -> ssl.SSLContext:
        """Trusts the site's CA alone; TLS 1.3 only."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cafile=str(self.ca))
        if with_certificate:
            context.load_cert_chain(str(self.certificate), str(self.key))
        return context


def exists(ca_dir: Path) -> bool:
    return Authority(ca_dir).exists()


def ensure(ca_dir: Path, passphrase_file: Path) -> Authority:
    """The site's CA; made on the first install."""
    authority = Authority(ca_dir)
    if not authority.exists():
        authority.create("appliance site CA", passphrase_file.read_text(), now=utc_now())
    return authority


def server_tls(ca_dir: Path, passphrase_file: Path, address: str) -> ServerTls:
    """A fresh certificate for the depot at ``address``."""
    authority = ensure(ca_dir, passphrase_file)
    key, certificate = authority.issue(
        kind="depot",
        name="depot",
        names=[address],
        passphrase=passphrase_file.read_text(),
        days=DEPOT_DAYS,
        now=utc_now(),
    )
    durable.write(ca_dir / "depot.key", key, mode=0o600)
    durable.write(ca_dir / "depot.crt", certificate)
    return ServerTls(ca_dir / "depot.crt", ca_dir / "depot.key", authority.certificate_path, authority.crl_path)


def proof_client(ca_dir: Path, passphrase_file: Path, where: Path) -> ClientTls:
    """A client certificate for one day, in ``where``."""
    authority = ensure(ca_dir, passphrase_file)
    key, certificate = authority.issue(
        kind="client", name=OWN_CLIENT, names=[], passphrase=passphrase_file.read_text(), days=1, now=utc_now()
    )
    durable.write(where / "client.key", key, mode=0o600)
    durable.write(where / "client.crt", certificate)
    return ClientTls(where / "client.crt", where / "client.key", authority.certificate_path)
