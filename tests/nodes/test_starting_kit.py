"""The starting kit on a stock node without a network to anywhere: the words of its README.txt, as a person types them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from installer.lab.lab import Lab, down, up
from tests.demo import Demo

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module", params=["bookworm", pytest.param("trixie", marks=pytest.mark.slow)])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A node of Debian 12, then one of Debian 13, with what they come with."""
    name = f"kit-{request.param[0]}-{os.getpid()}"
    made = up(name, release=request.param, owner_pid=os.getpid())
    try:
        yield made
    finally:
        down(name)


@pytest.fixture(scope="module")
def kit(demo: Demo, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A small bundle and a kit, both in the node's /root; what `appliance kit` printed."""
    place = tmp_path_factory.mktemp("kit")
    (place / "hello").write_bytes(b"hello")
    sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    file = {"name": "hello", "url": "file:hello", "sha256": sha256, "profiles": ["gpu"]}
    definition = {
        "schema": 1, "name": "small", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"}, "files": [file]
    }  # fmt: skip
    (place / "small.yml").write_text(yaml.safe_dump(definition))
    demo.appliance("lock", place / "small.yml")
    demo.appliance("build", "bundle", place / "small.yml", "--out", place)
    made: dict[str, str] = demo.appliance(
        "kit", place / "small-1.0.0", "--out", place / "starting-kit", json_output=True
    )
    for name in ("small-1.0.0", "starting-kit"):
        _copy(lab, place / name)
    return made


def _copy(lab: Lab, directory: Path) -> None:
    packed = subprocess.Popen(["tar", "-C", directory.parent, "-c", directory.name], stdout=subprocess.PIPE)
    subprocess.run([*lab.ssh(lab.nodes[0].address), "tar -C /root -x"], stdin=packed.stdout, check=True, timeout=600)
    assert packed.wait() == 0


def at_node(lab: Lab, command: str, *, ok: bool = True) -> str:
    done = subprocess.run(
        [*lab.ssh(lab.nodes[0].address), f"cd /root/starting-kit && {command}"],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_commands(lab: Lab) -> list[str]:
    """The two commands of step 3, taken from README.txt itself."""
    text = at_node(lab, "cat README.txt")
    return re.findall(r"^    ((?:ssh-keygen|sha256sum) .*)$", text, re.MULTILINE)


def test_the_readme_s_commands_trust_the_kit_and_the_kit_trusts_the_bundle(lab: Lab, kit: dict[str, str]) -> None:
    at_node(lab, f"printf '%s\\n' {shlex.quote(kit['allowed_signers'])} > allowed_signers")
    signed, hashed = (at_node(lab, command) for command in check_commands(lab))
    assert 'Good "appliance-starting-kit" signature for appliance' in signed
    assert kit["fingerprint"] in signed
    assert hashed.count(": OK") == len(hashed.splitlines()) == 7
    assert "small-1.0.0 is good" in at_node(lab, "./verify /root/small-1.0.0")


def test_the_installer_is_taken_out_of_the_verified_bundle(lab: Lab, kit: dict[str, str]) -> None:
    at_node(lab, "./verify /root/small-1.0.0 --take content/installer/control --to /root/control")
    assert at_node(lab, "diff -r /root/small-1.0.0/content/installer/control /root/control") == ""
    assert "it exists already" in at_node(
        lab, "./verify /root/small-1.0.0 --take content/installer/control --to /root/control", ok=False
    )


def test_nothing_is_installed_or_left_behind(lab: Lab, kit: dict[str, str]) -> None:
    before = at_node(lab, "find /root/starting-kit /tmp /usr/lib/python3 -newer SHA256SUMS | sort")
    at_node(lab, "./verify /root/small-1.0.0")
    assert at_node(lab, "find /root/starting-kit /tmp /usr/lib/python3 -newer SHA256SUMS | sort") == before


def test_a_flipped_bit_in_the_bundle_is_named(lab: Lab, kit: dict[str, str]) -> None:
    at_node(lab, "printf j | dd of=/root/small-1.0.0/content/files/hello bs=1 conv=notrunc status=none")
    try:
        told = at_node(lab, "./verify /root/small-1.0.0", ok=False)
    finally:
        at_node(lab, "printf h | dd of=/root/small-1.0.0/content/files/hello bs=1 conv=notrunc status=none")
    assert "changed  content/files/hello" in told
    assert "IS NOT GOOD: 1 findings" in told


@pytest.mark.parametrize("victim", ["root.json", "verify", "wheels/tuf-*.whl"])
def test_a_changed_file_of_the_kit_is_found_by_sha256sum(lab: Lab, kit: dict[str, str], victim: str) -> None:
    at_node(lab, f"cp -a /root/starting-kit /root/kept && printf x >> {victim}")
    try:
        told = at_node(lab, check_commands(lab)[1], ok=False)
    finally:
        at_node(lab, "cd /root && rm -r starting-kit && mv kept starting-kit")
    assert ": FAILED" in told


def test_a_kit_signed_by_somebody_else_is_found_by_ssh_keygen(lab: Lab, kit: dict[str, str]) -> None:
    other = "ssh-keygen -q -t ed25519 -N '' -f /root/other <<<y >/dev/null; ssh-keygen -q -Y sign -f /root/other -n appliance-starting-kit"
    at_node(lab, f"cp SHA256SUMS.sig /root/sig && rm SHA256SUMS.sig && {{ {other} SHA256SUMS; }}")
    try:
        told = at_node(lab, check_commands(lab)[0], ok=False)
    finally:
        at_node(lab, "mv /root/sig SHA256SUMS.sig")
    assert "Could not verify signature" in told


def test_a_signature_made_for_another_purpose_does_not_count(lab: Lab, kit: dict[str, str]) -> None:
    """The list of signers ties the key to the kit's namespace."""
    command = check_commands(lab)[0].replace("-n appliance-starting-kit", "-n file")
    assert "Could not verify signature" in at_node(lab, command, ok=False)


def test_an_old_python_is_told_apart_from_a_bad_bundle(lab: Lab, kit: dict[str, str]) -> None:
    at_node(lab, "printf '#!/bin/sh\\nexit 1\\n' > /root/oldpython && chmod 755 /root/oldpython")
    assert "Python 3.11 or newer is needed" in at_node(
        lab, "PYTHON=/root/oldpython ./verify /root/small-1.0.0", ok=False
    )
