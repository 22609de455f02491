"""Secrets planted wherever a builder keeps them are in nothing that `lock` and `build` write or say."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration import netsite
from tests.integration.test_fetching_wheels import offer

PLANTED = {
    "index": "pl4nted-index-t0ken",
    "netrc": "pl4nted-netrc-password",
    "proxy": "pl4nted-proxy-password",
    "hub": "hf_pl4ntedHubToken",
    "store": "pl4nted-store-secret",
    "session": "pl4nted-session-token",
}
LINK = "pl4ntedLinkSignature"
FORMS = (
    *PLANTED.values(),
    LINK,
    *(netsite.basic(f"svc:{v}").removeprefix("Basic ") for k, v in PLANTED.items() if k in ("index", "netrc", "proxy")),
)


def appliance(environ: dict[str, str], *argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "installer", *(str(a) for a in argv)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


def planted(where: str) -> list[str]:
    return [form for form in FORMS if form in where]


def read(tree: Path) -> str:
    return "".join(p.read_bytes().decode("latin-1") for p in sorted(tree.rglob("*")) if p.is_file())


@pytest.fixture
def host(tmp_path: Path) -> dict[str, str]:
    """A builder whose environment holds every secret, with release keys."""
    (tmp_path / "pass").touch(mode=0o600)
    (tmp_path / "pass").write_text("a passphrase for this test alone\n")
    (tmp_path / "netrc").write_text(f"machine files.corp.test login svc password {PLANTED['netrc']}\n")
    environ = {
        **os.environ,
        "APPLIANCE_PASSPHRASE_FILE": str(tmp_path / "pass"),
        "NETRC": str(tmp_path / "netrc"),
        "HF_TOKEN": PLANTED["hub"],
        "AWS_SECRET_ACCESS_KEY": PLANTED["store"],
        "AWS_SESSION_TOKEN": PLANTED["session"],
    }
    assert appliance(environ, "keys", "init", "--keys", tmp_path / "keys").returncode == 0
    return environ


def test_no_secret_of_the_builder_is_in_lock_bundle_or_words_whether_it_goes_well_or_not(
    tmp_path: Path, host: dict[str, str]
) -> None:
    offer(tmp_path / "mirror", "corp-app", "1.0", metadata=False)
    page = tmp_path / "mirror/simple/corp-app/index.html"
    page.write_text(page.read_text().replace(".whl#", f".whl?X-Amz-Signature={LINK}#"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_bytes(b"content")
    definition = {
        "schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"},
        "wheels": [{"name": "app", "requirements": ["corp-app"], "profiles": ["control"]}],
        "files": [{
            "name": "a", "url": "http://files.corp.test/a", "sha256": hashlib.sha256(b"content").hexdigest(),
            "profiles": ["control"],
        }],
    }  # fmt: skip
    path = tmp_path / "d.yml"
    path.write_text(yaml.safe_dump(definition))
    lock = ("lock", path, "--cache", tmp_path / "cache")
    build = ("build", "bundle", path, "--keys", tmp_path / "keys", "--cache", tmp_path / "cache", "--out", tmp_path)
    with (
        netsite.files(tmp_path / "mirror", login=f"svc:{PLANTED['index']}") as mirror,
        netsite.files(tmp_path / "files", login=f"svc:{PLANTED['netrc']}") as files,
        netsite.proxy(files, login=f"svc:{PLANTED['proxy']}") as proxy,
    ):
        host |= {
            "PIP_EXTRA_INDEX_URL": mirror.address.replace("//", f"//svc:{PLANTED['index']}@") + "/simple",
            "http_proxy": proxy.address.replace("//", f"//svc:{PLANTED['proxy']}@"),
            "no_proxy": "127.0.0.1",
        }
        said = [appliance(host, *lock), appliance(host, *lock, "--json"), appliance(host, *build)]
        assert [(d.returncode, d.stderr if d.returncode else "") for d in said] == [(0, "")] * 3
        # And each way in which a source says no: a proxy's refusal, a login that is not there, closed ports.
        failures: list[subprocess.CompletedProcess[str]] = []
        for change in (
            {"http_proxy": host["http_proxy"].replace("svc:", "other:")},
            {"NETRC": "/dev/null"},
            {"PIP_EXTRA_INDEX_URL": f"http://svc:{PLANTED['index']}@127.0.0.1:9/simple"},
            {"http_proxy": f"http://svc:{PLANTED['proxy']}@127.0.0.1:9"},
        ):
            failures.append(appliance({**host, **change}, *lock))
    assert [f.returncode for f in failures] == [4, 4, 4, 4], [f.stderr[-300:] for f in failures]
    for failed, reason in zip(
        failures, ("407", "401", "the index http://127.0.0.1:9/simple does not answer", "refused"), strict=True
    ):
        assert reason in failed.stderr
    bundle = read(tmp_path / "d-1.0.0")
    assert "files.corp.test/a" in bundle
    assert proxy.address in bundle
    for text in (bundle, (tmp_path / "d.lock.yml").read_text(), *(d.stdout + d.stderr for d in (*said, *failures))):
        assert planted(text) == []
