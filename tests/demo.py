"""`./run demo`: the main job from nothing to an answer, on one throw-away node.

Everything the product does here goes through its command line, as an operator would type it; the steps are shown.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openai import DefaultHttpxClient, OpenAI, OpenAIError

from engine import durable
from installer.cli.screen import size
from installer.lab.lab import Lab, down, up

TREE = Path(__file__).resolve().parent.parent
QUESTION = "What crosses an air gap?"


@dataclass
class Demo:
    """One run: where its files are, and how long each phase took in seconds."""

    work: Path
    out: Path
    verbose: bool = True
    phases: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.work.chmod(0o711)  # the depot's web server passes through; what is secret below has its own mode
        self.passphrase = self.work / "passphrase"
        if not self.passphrase.exists():
            durable.write(self.passphrase, secrets.token_urlsafe(24), mode=0o600)
        self.environment = {
            **os.environ,
            "APPLIANCE_PASSPHRASE_FILE": str(self.passphrase),
            "XDG_CONFIG_HOME": str(self.work / "config"),
        }

    @property
    def keys(self) -> Path:
        return self.work / "config" / "appliance" / "keys"

    @property
    def bundle(self) -> Path:
        return self.out / "demo-1.0.0"

    def appliance(self, *argv: str | Path, ok: tuple[int, ...] = (0,), json_output: bool = False) -> Any:
        """Run `appliance` like a person; its words are shown where this is ``verbose``. With ``json_output`` returns its document."""
        words = [str(a) for a in argv]
        self.say(f"$ appliance {shlex.join(words)}")
        command = [sys.executable, "-m", "installer", *words, *(["--json"] if json_output else [])]
        done = subprocess.run(
            command,
            cwd=TREE,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE if json_output or not self.verbose else None,
            check=False,
        )
        if done.returncode not in ok:
            raise SystemExit(
                f"demo: `appliance {words[0]}` ended with {done.returncode}, expected {ok}: {done.stdout or ''}"
            )
        return json.loads(done.stdout) if json_output else done.returncode

    def say(self, text: str) -> None:
        if self.verbose:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.say(f"\n── {name}")
        begin = time.monotonic()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - begin


def make_bundle(demo: Demo) -> None:
    """Model, keys, lock, bundle, check: the builder's side."""
    with demo.phase("model"):
        demo.appliance("model", "demo", TREE / "build" / "demo" / "tiny")
    with demo.phase("keys"):
        if not (demo.keys / "root.json").exists():
            demo.appliance("keys", "init")
    with demo.phase("lock"):
        demo.appliance("lock", "bundles/demo.yml")
    with demo.phase("build"):
        demo.appliance("build", "bundle", "bundles/demo.yml", "--out", demo.out)
    with demo.phase("verify"):
        demo.appliance("verify", demo.bundle, "--root", demo.keys / "root.json")


def site_environment(demo: Demo, lab: Lab) -> None:
    """What inventories/demo asks the environment for."""
    demo.environment |= {
        "APPLIANCE_DEMO_NODE": lab.nodes[0].address,
        "APPLIANCE_DEMO_CONTROL": lab.host_address,
        "APPLIANCE_DEMO_KEY": str(lab.key),
        "APPLIANCE_DEMO_KNOWN_HOSTS": str(lab.known_hosts),
    }


def install_argv(demo: Demo, site: str | Path = "inventories/demo", state: Path | None = None) -> list[str | Path]:
    """`install` for a site, with the control host's own files below ``state``."""
    state = state or demo.work / "control"
    places = [w for name in ("depot", "ca", "runs") for w in (f"--{name}", state / name)]
    return ["install", "-i", site, *places, "--site-keys", state / "site", "--root", demo.keys / "root.json"]


def client(demo: Demo, lab: Lab, *, certificate: bool = True) -> OpenAI:
    """The `openai` client behind a client certificate of the site's CA."""
    out = demo.work / "client"
    if not (out / "demo.crt").exists():
        demo.appliance("certs", "client", "demo", "--dir", demo.work / "control" / "ca", "--out", out)
    context = ssl.create_default_context(cafile=str(out / "ca.crt"))
    if certificate:
        context.load_cert_chain(str(out / "demo.crt"), str(out / "demo.key"))
    return OpenAI(
        base_url=f"https://{lab.nodes[0].address}:8443/v1",
        api_key="unused",
        max_retries=0,
        http_client=DefaultHttpxClient(verify=context, timeout=120, trust_env=False),
    )


def ask(demo: Demo, lab: Lab) -> str:
    """One real chat completion through nginx with a client certificate."""
    answer = client(demo, lab).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": QUESTION}], max_tokens=12, temperature=0
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0
    return str(answer.choices[0].message.content)


def ask_again(demo: Demo, lab: Lab, within_s: float = 900) -> str:
    """The same of a node that was just told to restart.

    Raises:
        OpenAIError: there was no answer within ``within_s`` seconds.
    """
    deadline = time.monotonic() + within_s
    while True:
        try:
            return ask(demo, lab)
        except OpenAIError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(1)


def refused_without_certificate(demo: Demo, lab: Lab) -> str:
    """The same request without a certificate; returns the refusal."""
    try:
        client(demo, lab, certificate=False).chat.completions.create(
            model="tiny", messages=[{"role": "user", "content": QUESTION}]
        )
    except OpenAIError as error:
        cause = error.__cause__ or error
        return f"{type(error).__name__}: {cause}"[:200]
    raise SystemExit("demo: a request without a certificate was answered")


def refused_outside(lab: Lab) -> str:
    """A connection from the node to an address outside; returns the refusal."""
    code = "import socket; s = socket.socket(); s.settimeout(5); s.connect(('192.0.2.1', 443))"
    done = subprocess.run(
        [*lab.ssh(lab.nodes[0].address), "python3", "-c", shlex.quote(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        raise SystemExit("demo: the node reached the outside")
    return done.stderr.strip().splitlines()[-1]


def main() -> None:
    """Run the demo; see ./run for how."""
    parser = argparse.ArgumentParser(
        prog="./run demo", description="Build a bundle, install it offline on a throw-away node, get an answer."
    )
    parser.add_argument("--keep", action="store_true", help="leave the node running and say how to talk to it")
    parser.add_argument("--again", action="store_true", help="install a second time, to see that nothing changes")
    options = parser.parse_args()
    begin = time.monotonic()
    work = Path(tempfile.mkdtemp(prefix="appliance-demo-"))
    demo = Demo(work, TREE / "dist")
    lab = None
    try:
        make_bundle(demo)
        with demo.phase("node"):
            lab = up("demo", owner_pid=None if options.keep else os.getpid())
            site_environment(demo, lab)
            demo.say(f"{lab.nodes[0].name} answers at {lab.nodes[0].address}; its network ends at {lab.host_address}")
        with demo.phase("install"):
            demo.appliance(*install_argv(demo), demo.bundle)
        if options.again:
            with demo.phase("install again"):
                demo.appliance(*install_argv(demo), demo.bundle)
        with demo.phase("ask"):
            print(
                f"> {QUESTION}\n< {ask(demo, lab)!r}   (a model of random weights: the words mean nothing, the path is real)"
            )
            print(f"without a certificate: refused ({refused_without_certificate(demo, lab)})")
            print(f"from the node to the outside: refused ({refused_outside(lab)})")
        crossed = sum(f.stat().st_size for f in demo.bundle.rglob("*") if f.is_file())
        times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in demo.phases.items())
        print(
            f"installed demo-1.0.0 on {lab.nodes[0].name}: {times}; {size(crossed)} crossed; {time.monotonic() - begin:.0f} s in all"
        )
        if options.keep:
            keep(demo, lab)
    finally:
        if not options.keep or lab is None:
            down("demo")
            shutil.rmtree(work, ignore_errors=True)


def keep(demo: Demo, lab: Lab) -> None:
    """How to talk to a node that stays."""
    out, address = demo.work / "client", lab.nodes[0].address
    print(
        f"""
The node stays. To talk to it:
  curl --cacert {out}/ca.crt --cert {out}/demo.crt --key {out}/demo.key \\
    -H 'Content-Type: application/json' -d '{{"model":"tiny","messages":[{{"role":"user","content":"hello"}}]}}' \\
    https://{address}:8443/v1/chat/completions
  {shlex.join(lab.ssh(address))}
To remove it:
  appliance lab down demo && rm -r {demo.work}"""
    )


if __name__ == "__main__":
    main()
