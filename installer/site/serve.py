"""Serve the depot to nodes while an install runs: nginx, mutual TLS, nothing standing when nobody installs."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from engine.errors import ApplianceError, ResourceError
from engine.process import run, which
from engine.rules.networks import with_port

START_S = 10.0
UNIT = "nginx.service"  # the distribution's; ours has no unit here

CONFIG = """# Written by appliance for the time of one install.
daemon off;
worker_processes 2;
pid {run}/nginx.pid;
error_log {run}/error.log warn;
{user}
events {{ worker_connections 1024; }}
http {{
    access_log {run}/access.log;
    client_body_temp_path {run}/body;
    proxy_temp_path {run}/proxy;
    fastcgi_temp_path {run}/fastcgi;
    uwsgi_temp_path {run}/uwsgi;
    scgi_temp_path {run}/scgi;
    default_type application/octet-stream;
    sendfile on;
    server_tokens off;
    # A node's certificate carries no client name; a tenant's does, and tenants have no business here.
    map $ssl_client_s_dn $is_node {{
        default 0;
        "~(^|,)OU=node(,|$)" 1;
    }}
    server {{
        listen {listen} ssl;
        ssl_certificate {tls.certificate};
        ssl_certificate_key {tls.key};
        ssl_client_certificate {tls.ca};
        ssl_verify_client on;
        {crl}
        ssl_protocols TLSv1.3;
        ssl_session_tickets off;
        root {root};
        location ~ ^/[^/]+/(metadata|content)/ {{
            if ($is_node = 0) {{ return 403; }}
            limit_except GET {{ deny all; }}
        }}
        {lists}
        location / {{ return 404; }}
    }}
}}
"""


LISTS = """location ~ "^/pieces/[0-9a-f]{{64}}$" {{
            if ($is_node = 0) {{ return 403; }}
            limit_except GET {{ deny all; }}
            root {above};
        }}"""


@dataclass(frozen=True)
class ServerTls:
    """Files of the depot's own certificate and of the CA that nodes are checked against."""

    certificate: Path
    key: Path
    ca: Path
    crl: Path | None = None


@contextmanager
def serving(bundles: Path, address: str, port: int, tls: ServerTls, piece_lists: Path | None = None) -> Iterator[str]:
    """Serve ``bundles`` at https://ADDRESS:PORT until the block ends.

    Args:
        piece_lists: a directory called ``pieces`` with what installer.site.piecelists made, for nodes that relay.

    Raises:
        ResourceError: nginx is missing, or the port is taken.
    """
    nginx = which("nginx")
    if nginx is None:
        raise ResourceError(
            "nginx is not installed on this control host", remedy="Install it: apt-get install nginx-light"
        )
    _require_readable(bundles)
    _require_free(address, port)
    work = Path(tempfile.mkdtemp(prefix="appliance-depot-"))
    process: subprocess.Popen[bytes] | None = None
    try:
        work.chmod(0o755)
        config = CONFIG.format(
            run=work,
            listen=with_port(address, port),
            tls=tls,
            root=bundles,
            user=_user(),
            crl=f"ssl_crl {tls.crl};" if tls.crl else "",
            lists=LISTS.format(above=piece_lists.parent) if piece_lists else "",
        )
        durable.write(work / "nginx.conf", config)
        process = subprocess.Popen(  # a server lives as long as the block, which `run` cannot express
            # A killed install must not leave a server behind: the kernel ends it with us.
            ["setpriv", "--pdeathsig", "TERM", nginx, "-e", str(work / "error.log"), "-p", str(work), "-c", str(work / "nginx.conf")],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        _wait(process, address, port, work)
        yield f"https://{with_port(address, port)}"
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(work, ignore_errors=True)


def other_server(tell: Callable[[str], None]) -> None:
    """Say when the distribution's own web server runs on this host: Debian starts it with the package, and it listens on port 80.

    Only the program is needed here, for the time of an install. Where systemd is not asked, nothing is said.
    """
    if which("systemctl") is None:
        return
    try:
        running = run(["systemctl", "is-active", "--quiet", UNIT], ok=(0, 1, 3, 4), timeout_s=START_S).returncode == 0
    except ApplianceError:
        return
    if running:
        tell(
            f"warning: {UNIT} of the distribution runs on this control host and listens on port 80; appliance needs the program alone. "
            "Unless you serve something with it: systemctl disable --now nginx"
        )


def _require_readable(bundles: Path) -> None:
    """The workers' user must reach the bundles; a private directory above them would show as 403 on every node.

    Raises:
        ResourceError: it cannot.
    """
    if os.geteuid() != 0:
        return
    user = _user().removeprefix("user ").rstrip(";").split()[0]
    look = run(["setpriv", f"--reuid={user}", "--clear-groups", "test", "-x", bundles], ok=(0, 1))
    if look.returncode != 0:
        raise ResourceError(
            f"the web server's user {user} cannot read the bundles",
            where=str(bundles),
            remedy="Let others pass the directories above it (chmod o+x), or use another --depot.",
        )


def _require_free(address: str, port: int) -> None:
    """Nobody else may listen there: nodes would talk to a stranger, and nginx itself waits long before it says so.

    Raises:
        ResourceError: the port is taken, or the address is not this host's.
    """
    try:
        with socket.create_server((address, port), family=_family(address)):
            pass
    except OSError as error:
        raise ResourceError(
            f"the depot cannot be served: {error.strerror}",
            where=with_port(address, port),
            remedy="Free the port, or correct control.address and control.port of the site.",
        ) from error


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _user() -> str:
    """Workers of a root master run as the web server's user, which may only read."""
    if os.geteuid() != 0:
        return ""
    try:
        return f"user {pwd.getpwnam('www-data').pw_name};"
    except KeyError:
        return "user nobody nogroup;"


def _wait(process: subprocess.Popen[bytes], address: str, port: int, work: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            said = (process.stderr.read() if process.stderr else b"").decode(errors="replace")
            log = work / "error.log"
            reason = (log.read_text() if log.exists() else "") or said
            raise ResourceError(
                f"the depot's web server did not start: {reason.strip()[-400:]}",
                where=with_port(address, port),
                remedy="Free the port, or set control.address and control.port in the site.",
            )
        with socket.socket(_family(address)) as probe:
            probe.settimeout(0.5)
            if probe.connect_ex((address, port)) == 0:
                return
        time.sleep(0.05)
    raise ResourceError(
        "the depot's web server does not answer",
        where=with_port(address, port),
        remedy="Look for a firewall rule on the control host.",
    )
