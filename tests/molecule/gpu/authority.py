"""What `appliance certs init` and the role pki leave for a node: `authority.py SITE NAME ADDRESS`. The authority's passphrase lies beside it."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

from installer.pki import Authority, utc_now


def main(site: Path, name: str, address: str) -> None:
    """SITE/ca, SITE/passphrase, and SITE/node with what belongs into /etc/appliance/pki."""
    os.umask(0o077)
    node = site / "node"
    node.mkdir(parents=True, mode=0o700)
    passphrase, now = secrets.token_urlsafe(24), utc_now()
    (site / "passphrase").write_text(f"{passphrase}\n")
    authority = Authority(site / "ca")
    authority.create("tests", passphrase, now=now)
    key, certificate = authority.issue(
        kind="node", name=name, names=[name, address], passphrase=passphrase, days=2, now=now
    )
    (node / "node.key").write_bytes(key)
    (node / "node.crt").write_bytes(certificate)
    for file in ("ca.crt", "crl.pem"):
        (node / file).write_bytes((site / "ca" / file).read_bytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
