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
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from openai import DefaultHttpxClient, OpenAI, OpenAIError

from engine import durable
from engine.errors import ApplianceError, Exit
from installer.cli.screen import Screen, size
from installer.lab.lab import Lab, down, up
from installer.rehearse.stage import undisturbed

TREE = Path(__file__).resolve().parent.parent
PROGRAM = [sys.executable, "-m", "installer"]
# What a demo that failed leaves: the logs of its installs, without which nobody can tell why.
FAILED = TREE / "build" / "demo-failed"
HEARD_S = 10.0  # a command that still runs so long after Ctrl-C has not heard it: only this process was told
ENDS_S = 60.0  # how long a command that was told may take to stop what it started
QUESTION = "What crosses an air gap?"


class Told(KeyboardInterrupt):
    """SIGTERM or SIGHUP: ends this process as Ctrl-C does, but its children do not hear of it by themselves."""


@dataclass
class Demo:
    """One run: where its files are, and how long each phase took in seconds. ``tree`` is the product's source."""

    work: Path
    out: Path
    verbose: bool = True
    tree: Path = TREE
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
        code, out = self._ended(
            [*PROGRAM, *words, *(["--json"] if json_output else [])], json_output or not self.verbose
        )
        if code not in ok:
            said = f": {out}" if out else "; what it said is above"
            raise SystemExit(f"demo: `appliance {words[0]}` {_verdict(code, ok)}{said}")
        return json.loads(out) if json_output else code

    def _ended(self, command: list[str], captured: bool) -> tuple[int, str]:
        """Exit code and output of a command. An interruption is passed on when the command has ended by itself.

        subprocess.run would kill it a quarter of a second after Ctrl-C, before it can stop Ansible, which then goes on alone.
        """
        stdout = subprocess.PIPE if captured else None
        with subprocess.Popen(command, cwd=self.tree, env=self.environment, text=True, stdout=stdout) as child:
            try:
                out, _ = child.communicate()
            except KeyboardInterrupt as asked:
                let_end(child, told=isinstance(asked, Told))
                raise
            except BaseException:
                child.kill()
                raise
        return child.returncode, out or ""

    def say(self, text: str) -> None:
        if self.verbose:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.say(f"\n── {name}")
        begin = time.monotonic()
        yield
        self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - begin


def _verdict(code: int, ok: tuple[int, ...]) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"failed with exit code {code}" if ok == (0,) else f"ended with {code}, expected {' or '.join(map(str, ok))}"


def let_end(child: subprocess.Popen[str], *, told: bool) -> None:
    """Wait for an interrupted command, which stops what it started; kill it when it does not end.

    Args:
        told: only this process was told to end, so that the command must hear it from here. Ctrl-C tells all at once.
    """
    if not told and _ends(child, HEARD_S):
        return
    child.send_signal(signal.SIGINT)
    if not _ends(child, ENDS_S):
        child.kill()
        child.wait()


def _ends(child: subprocess.Popen[str], within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while True:
        try:
            child.communicate(timeout=max(0.0, deadline - time.monotonic()))
        except KeyboardInterrupt:
            continue  # somebody is impatient; the child heard it, too
        except subprocess.TimeoutExpired:
            return False
        return True


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo as Ctrl-C does, so that nothing of it stays. What is ignored stays so: somebody said nohup."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Told

    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    with ended_by_signals():
        code = run(keep_node=options.keep, again=options.again)
    sys.exit(code)


def run(*, keep_node: bool, again: bool) -> int:
    """All of it, and the end of all of it; the exit code. What failed is said in the last line."""
    begin = time.monotonic()
    demo = Demo(Path(tempfile.mkdtemp(prefix="appliance-demo-")), TREE / "dist")
    lab, code, failure = None, int(Exit.FAILED), ""
    try:
        make_bundle(demo)
        with demo.phase("node"):
            lab = up("demo", owner_pid=None if keep_node else os.getpid())
            site_environment(demo, lab)
            demo.say(f"{lab.nodes[0].name} answers at {lab.nodes[0].address}; its network ends at {lab.host_address}")
        install_and_ask(demo, lab, again=again)
        crossed = sum(f.stat().st_size for f in demo.bundle.rglob("*") if f.is_file())
        times = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in demo.phases.items())
        print(
            f"installed demo-1.0.0 on {lab.nodes[0].name}: {times}; {size(crossed)} crossed; {time.monotonic() - begin:.0f} s in all"
        )
        if keep_node:
            keep(demo, lab)
        code = Exit.OK
    except KeyboardInterrupt:
        code, failure = Exit.INTERRUPTED, "demo: interrupted."
    except SystemExit as ended:
        failure = str(ended.code).rstrip() + "."
    except ApplianceError as error:
        Screen().error(error)
        code, failure = error.exit_code, "demo: not finished; the reason is above."
    except OpenAIError as error:
        failure = f"demo: the node was installed, but its model was asked in vain: {error}."
    finally:
        with undisturbed():  # a second Ctrl-C would leave the node behind
            left = leave(demo, lab, keep_node=keep_node, failed=code not in (Exit.OK, Exit.INTERRUPTED), good=code == 0)
    if failure:
        print(f"{failure} {left}", file=sys.stderr)
    return int(code)


def install_and_ask(demo: Demo, lab: Lab, *, again: bool) -> None:
    """The operator's side: install, and see that the model answers whom it should and nobody else."""
    with demo.phase("install"):
        demo.appliance(*install_argv(demo), demo.bundle)
    if again:
        with demo.phase("install again"):
            demo.appliance(*install_argv(demo), demo.bundle)
    with demo.phase("ask"):
        print(
            f"> {QUESTION}\n< {ask(demo, lab)!r}   (a model of random weights: the words mean nothing, the path is real)"
        )
        print(f"without a certificate: refused ({refused_without_certificate(demo, lab)})")
        print(f"from the node to the outside: refused ({refused_outside(lab)})")


def leave(demo: Demo, lab: Lab | None, *, keep_node: bool, failed: bool, good: bool) -> str:
    """Remove what was made, and say what of it stays."""
    if keep_node and lab is not None:
        return "" if good else f"The node stays. {removal(demo)}"
    log = kept_log(demo) if failed else None
    if lab is not None:  # `up` has removed what it could not finish; a node of that name is another run's
        try:
            down(lab.name)
        except ApplianceError as error:
            Screen().error(error)
    shutil.rmtree(demo.work, ignore_errors=True)
    if log is None:
        return "What it made to work with is removed."
    return f"The log of the install: {log}. The node is removed; `./run demo --keep` leaves it."


def kept_log(demo: Demo) -> Path | None:
    """Keep the logs of this run's installs, instead of those of an earlier run; the path of the last one."""
    runs = demo.work / "control" / "runs"
    shutil.rmtree(FAILED, ignore_errors=True)
    if not runs.is_dir():
        return None
    shutil.copytree(
        runs, FAILED, ignore=shutil.ignore_patterns("runner-*")
    )  # ansible-runner's own, far more than a person reads
    return max(FAILED.glob("*/ansible.log"), default=None)


def removal(demo: Demo) -> str:
    return f"To remove it:\n  appliance lab down demo && rm -r {demo.work}"


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
{removal(demo)}"""
    )


if __name__ == "__main__":
    main()
