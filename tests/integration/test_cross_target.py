"""A bundle for another system and Python than the builder's: resolved, built, installed with no network at all.

A small closure of real wheels; the same path carries the CUDA closure of bundles/gpu-ubuntu-24.04.yml.
"""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from installer.cli.main import main
from installer.definition import Target, WheelSet
from installer.kinds import uvresolve
from installer.network.pipconfig import PipConfig
from tests.integration.wheelsite import wheel

PASSPHRASE = "correct horse battery staple"


def appliance(*argv: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in argv])
    return int(str(end.value.code or 0))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel set of a bundle that was locked, checked, built and verified by the command line."""
    work = tmp_path_factory.mktemp("cross")
    definition, secret, keys = work / "cross.yml", work / "passphrase", work / "keys"
    secret.touch(mode=0o600)
    secret.write_text(PASSPHRASE)
    for name in ("cross.yml", "cross.pins.txt"):
        shutil.copy(Path(__file__).with_name(name), work)
    assert appliance("keys", "init", "--keys", keys, "--passphrase-file", secret) == 0
    assert appliance("lock", definition, "--cache", work / "cache") == 0
    assert appliance("check", definition) == 0
    options = ("--keys", keys, "--passphrase-file", secret, "--cache", work / "cache", "--out", work / "dist")
    assert appliance("build", "bundle", definition, *options) == 0
    assert appliance("verify", work / "dist" / "cross-1.0.0", "--root", keys / "root.json") == 0
    return work / "dist" / "cross-1.0.0" / "content" / "wheels" / "app"


def test_locking_for_another_python_fetches_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv would download one from its makers when left to itself; here that place is ours, and nobody comes."""
    asked: list[str] = []

    class Counting(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's output stays readable."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("UV_PYTHON_INSTALL_MIRROR", f"http://127.0.0.1:{server.server_address[1]}")
        monkeypatch.setenv("UV_PYTHON_INSTALL_DIR", str(tmp_path / "pythons"))
        for tool in ("prlimit", "setpriv"):  # uv runs within bounds
            (tmp_path / tool).symlink_to(str(shutil.which(tool)))
        monkeypatch.setenv("PATH", str(tmp_path))  # no Python to be found but the one that runs this
        (tmp_path / "empty").mkdir()
        wheel(tmp_path / "index", "thing", "1.0")
        sources = {"indexes": ((tmp_path / "empty").as_uri(),), "find_links": (str(tmp_path / "index"),)}
        wheel_set = WheelSet(name="app", requirements=("thing",), profiles=("gpu",), **sources)
        target = Target(os="ubuntu-24.04", arch="x86_64", python="3.14")
        found = uvresolve.resolve(wheel_set, target, PipConfig())
        server.shutdown()
        thread.join()
    assert [f.filename for f in found] == ["thing-1.0-py3-none-any.whl"]
    assert asked == []


def install(wheels: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """uv in a network namespace that holds nothing but a loopback that is down."""
    unshare = shutil.which("unshare")
    assert unshare
    return subprocess.run(
        [
            unshare, "--net", "--map-root-user", uvresolve.uv_binary(), "pip", "install", "--no-config", "--offline", "--no-index",
            "--no-cache", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--find-links", wheels,
            "--python-version", "3.12", "--python-platform", "x86_64-manylinux_2_39", "--target", target,
            "--requirement", wheels / "requirements.txt",
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_locked_wheels_are_the_targets_not_the_builders(built: Path) -> None:
    names = [p.name for p in built.glob("*.whl")]
    assert any("-cp312-cp312-manylinux" in n and n.startswith("pyyaml") for n in names), names
    assert "cbor2-6.2.1-cp312-cp312-manylinux_2_28_x86_64.whl" in names
    assert any("-abi3-manylinux" in n and n.startswith("cryptography") for n in names), names
    assert not any("cp311-cp311" in n or "musllinux" in n for n in names), names


def test_the_set_installs_with_no_network(built: Path, tmp_path: Path) -> None:
    done = install(built, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    wanted = len((built / "requirements.txt").read_text().splitlines())
    assert len(list((tmp_path / "site").glob("*.dist-info"))) == wanted >= 5
    assert list((tmp_path / "site" / "yaml").glob("_yaml.cpython-312-x86_64-linux-gnu.so"))


def test_a_changed_wheel_does_not_install(built: Path, tmp_path: Path) -> None:
    copy = tmp_path / "wheels"
    shutil.copytree(built, copy)
    victim = next(copy.glob("jinja2-*.whl"))
    victim.write_bytes(victim.read_bytes() + b"\0")
    done = install(copy, tmp_path / "site")
    assert done.returncode != 0
    assert "jinja2" in done.stderr
    assert "hash" in done.stderr.lower()


def test_the_index_of_the_set_names_every_wheel_with_its_hash(built: Path) -> None:
    pages = "".join(p.read_text() for p in (built / "simple").glob("*/index.html"))
    manifest = json.loads((built.parents[1] / "manifest.json").read_text())
    locked = [a for a in manifest["lock"]["artifacts"] if a["kind"] == "wheels"]
    assert locked
    for artifact in locked:
        assert f"#sha256={artifact['sha256']}" in pages
