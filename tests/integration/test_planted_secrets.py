"""Fifty secrets wherever an operator keeps one, and a release made, carried and looked at beside them: nothing has any of them.

The builder's own code runs from a clone in which secrets lie untracked, with an environment, a home directory and a definition that are
full of them. What it writes is searched whole: archives are opened, and encoded forms count.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import string
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from tests.integration import netsite
from tests.integration.test_fetching_wheels import offer
from tests.integration.test_own_wheels import clone_of_this_checkout

LETTERS = string.ascii_letters + string.digits
MARK = "pL4n" + "".join(random.SystemRandom().choices(LETTERS, k=5))  # in every secret, and by chance in nothing else
VARIABLES = (
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_CLIENT_SECRET", "GOOGLE_API_KEY", "HF_TOKEN", "GITHUB_TOKEN", "GITLAB_TOKEN",
    "OPENAI_API_KEY", "WANDB_API_KEY", "NGC_API_KEY", "VAULT_TOKEN", "DOCKER_AUTH_CONFIG", "TWINE_PASSWORD", "UV_PUBLISH_TOKEN",
    "SSHPASS", "ANSIBLE_BECOME_PASS", "DEBFULLNAME_TOKEN",
)  # fmt: skip
# Files of the home directory that programs read secrets from.
HOME = {
    ".aws/credentials": "[default]\naws_secret_access_key = {}\n", ".docker/config.json": '{{"auths": {{"r.example": {{"auth": "{}"}}}}}}',
    ".ssh/id_ed25519": "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n",
    ".cache/huggingface/token": "{}", ".git-credentials": "https://bob:{}@git.example\n", ".kube/config": "token: {}\n",
    ".config/gh/hosts.yml": "oauth_token: {}\n", ".vault-token": "{}",
}  # fmt: skip
# Untracked files of the clone; the last four are ignored.
CLONE = {
    "inventories/mine/hosts.yml": "all: {{vars: {{ansible_password: '{}'}}}}\n",
    "inventories/mine/group_vars/all/vault.yml": "vault_admin: {}\n",
    "inventories/mine/.vault_pass": "{}\n",
    "roles/vllm/files/id_rsa": "-----BEGIN RSA PRIVATE KEY-----\n{}\n",
    "roles/node/defaults/local.yml": "token: {}\n",
    "playbooks/group_vars/mine.yml": "token: {}\n",
    "installer/.env": "TOKEN={}\n",
    "installer/secrets.py": "TOKEN = '{}'\n",
    "engine/secrets_of_mine.py": "TOKEN = '{}'\n",
    "requirements/.netrc": "machine a login b password {}\n",
    "bundles/key.pem": "{}\n",
    ".env": "TOKEN={}\n",
    "installer/build/key.py": "KEY = '{}'\n",
    "engine/__pycache__/key.py": "KEY = '{}'\n",
    "roles/dist/key.yml": "key: {}\n",
    "inventories/.cache/token": "{}\n",
}


@dataclass
class Planted:
    """Secrets by where they were put."""

    secrets: dict[str, str] = field(default_factory=dict)

    def new(self, place: str) -> str:
        """One for that place."""
        value = f"{MARK}{len(self.secrets):02d}" + "".join(random.SystemRandom().choices(LETTERS, k=9))
        self.secrets[place] = value
        return value

    def write(self, path: Path, text: str, place: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.format(self.new(place)))
        path.chmod(0o600)
        return path

    def seen(self, data: bytes) -> list[str]:
        """Places whose secret is in ``data``; what holds the mark alone, or an encoded form of it, counts as well."""
        if not any(form in data for form in FORMS):
            return []
        return [p for p, s in self.secrets.items() if s.encode() in data] or ["an encoded form"]


def _forms(text: str) -> list[bytes]:
    """As it is, in hexadecimal, and in base64 wherever it begins."""
    raw, forms = text.encode(), [text.encode(), text.encode().hex().encode()]
    for shift in range(3):
        core = base64.b64encode(b"\0" * shift + raw)[(shift * 8 + 5) // 6 : (shift + len(raw)) * 8 // 6]
        forms += [core, core.replace(b"+", b"-").replace(b"/", b"_")]
    return forms


FORMS = _forms(MARK)


def texts(name: str, data: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    """``data`` and what it unpacks to: wheels and other zip files, tar archives, packages, what gzip and xz compressed."""
    yield name, data
    if depth > 3:
        return
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for entry in archive.namelist():
                yield f"{name}!{entry}", entry.encode()
                yield from texts(f"{name}!{entry}", archive.read(entry), depth + 1)
    elif data[:2] == b"\x1f\x8b":
        yield from texts(f"{name}!gzip", gzip.decompress(data), depth + 1)
    elif data[:6] == b"\xfd7zXZ\x00":
        yield from texts(f"{name}!xz", lzma.decompress(data), depth + 1)
    elif data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if file := tar.extractfile(member):
                    yield from texts(f"{name}!{member.name}", file.read(), depth + 1)


def found(planted: Planted, tree: Path) -> list[tuple[str, list[str]]]:
    """Every file below ``tree`` (and every name) that holds a secret."""
    hits = []
    for path in sorted(tree.rglob("*")):
        name = str(path.relative_to(tree))
        if seen := planted.seen(name.encode()):
            hits.append((name, seen))
        if path.is_file() and not path.is_symlink():
            hits += [(inner, seen) for inner, data in texts(name, path.read_bytes()) if (seen := planted.seen(data))]
    return hits


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone_of_this_checkout(tmp_path_factory.mktemp("clone") / "appliance")


def inventory(planted: Planted, site: Path, vault_password: Path) -> Path:
    """A site of one node that nobody answers for, with secrets wherever an inventory may have some."""
    word = planted.new("a vaulted password of Ansible")
    encrypted = subprocess.run(
        [Path(sys.executable).with_name("ansible-vault"), "encrypt_string", word],
        env={**os.environ, "ANSIBLE_VAULT_PASSWORD_FILE": str(vault_password)}, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    (site / "group_vars/all").mkdir(parents=True)
    # Nothing is sent to that address: the program that would connect ends at once.
    host = {"node-1": {"ansible_host": "10.1.2.21", "ansible_user": "root", "ansible_ssh_common_args": "-o ProxyCommand=/bin/false"}}  # fmt: skip
    groups = {"all": {"children": {"gpu": {"hosts": host}, "gateway": {"hosts": {"node-1": {}}}}}}
    (site / "hosts.yml").write_text(yaml.safe_dump(groups))
    (site / "group_vars/all/own.yml").write_text(
        f"monitoring_token: {planted.new('a variable of the site')}\n# old: {planted.new('a comment of the site')}\n"
        + f"ansible_become_password: {encrypted.strip()}\n"
    )
    service = {"name": "tiny", "model": "tiny", "served_name": "tiny"}
    told = {
        "control": {"address": "10.1.2.5"}, "management_sources": ["10.1.2.5/32"], "client_sources": ["10.1.3.0/24"],
        "services": [{**service, "environment": {"LICENCE": planted.new("a service's environment")}}],
        "containers": [{
            "name": "metrics", "image": f"metrics@sha256:{'a' * 64}", "memory": "1G",
            "environment": {"COLLECTOR": planted.new("a container's environment")},
        }],
    }  # fmt: skip
    (site / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": told}))
    return site


def test_fifty_secrets_cross_nothing(tmp_path: Path, clone: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: PLR0915 - a walk
    planted, home, out = Planted(), tmp_path / "home", tmp_path / "out"
    for name, text in HOME.items():
        planted.write(home / name, text, f"~/{name}")
    for name, text in CLONE.items():
        planted.write(clone / name, text, f"clone: {name}")
    outside = planted.write(tmp_path / "outside/token", "{}", "behind a link of the clone")
    (clone / "playbooks/token.yml").symlink_to(outside)
    passphrase = planted.write(tmp_path / "pass", "{}-and-long-enough\n", "the passphrase of the keys")
    vault_password = planted.write(tmp_path / "vault-pass", "{}\n", "the password of the vault")
    netrc = planted.write(tmp_path / "netrc", "machine files.corp.test login svc password {}\n", "netrc")
    index, proxy_word, link = (planted.new(f"a login of {w}") for w in ("an index", "a proxy", "a signed link"))
    offer(tmp_path / "mirror", "corp-app", "1.0", metadata=False)
    page = tmp_path / "mirror/simple/corp-app/index.html"
    page.write_text(page.read_text().replace(".whl#", f".whl?X-Amz-Signature={link}#"))
    (tmp_path / "files").mkdir()
    (tmp_path / "files/a").write_bytes(b"content")
    place = tmp_path / "definitions"
    planted.write(place / ".env", "TOKEN={}", "beside the definition")
    definition = {
        "schema": 1, "name": "d", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"},
        "wheels": [{"name": "app", "requirements": ["corp-app"], "profiles": ["control"]}],
        "models": [{"name": "tiny", "path": "../tiny", "profiles": ["gpu"]}],
        "files": [{"name": "a", "url": "http://files.corp.test/a", "sha256": hashlib.sha256(b"content").hexdigest(), "profiles": ["control"]}],
    }  # fmt: skip
    path = place / "d.yml"
    path.write_text(f"# old login: {planted.new('a comment of the definition')}\n{yaml.safe_dump(definition)}")
    environ = {
        **{k: v for k, v in os.environ.items() if k in ("PATH", "PIP_INDEX_URL", "PIP_CONFIG_FILE", "PIP_CERT", "SSL_CERT_FILE")},
        **{name: planted.new(f"${name}") for name in VARIABLES},
        "HOME": str(home), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(clone), "NETRC": str(netrc),
        "APPLIANCE_PASSPHRASE_FILE": str(passphrase), "ANSIBLE_VAULT_PASSWORD_FILE": str(vault_password),
    }  # fmt: skip
    (tmp_path / "tmp").mkdir()
    said: dict[str, str] = {}

    def appliance(*argv: str | Path, ok: tuple[int, ...] = (0,)) -> None:
        command = [sys.executable, "-m", "installer", *map(str, argv)]
        done = subprocess.run(command, cwd=clone, env=environ, capture_output=True, text=True, check=False)
        said[" ".join(map(str, argv[:3]))] = done.stdout + done.stderr
        assert done.returncode in ok, (argv, done.stdout[-2000:], done.stderr[-2000:])

    site, runs = inventory(planted, tmp_path / "site", vault_password), tmp_path / "runs"
    kept = (
        "--depot",
        tmp_path / "depot",
        "--ca",
        tmp_path / "ca",
        "--runs",
        runs,
        "--site-keys",
        tmp_path / "site-keys",
    )
    cache, keys, bundle = ("--cache", tmp_path / "cache"), ("--keys", tmp_path / "keys"), out / "d-1.0.0"
    with (
        netsite.files(tmp_path / "mirror", login=f"svc:{index}") as mirror,
        netsite.files(tmp_path / "files", login=f"svc:{planted.secrets['netrc']}") as files,
        netsite.proxy(files, login=f"svc:{proxy_word}") as proxy,
    ):
        environ |= {
            "PIP_EXTRA_INDEX_URL": mirror.address.replace("//", f"//svc:{index}@") + "/simple",
            "http_proxy": proxy.address.replace("//", f"//svc:{proxy_word}@"), "no_proxy": "127.0.0.1",
        }  # fmt: skip
        appliance("model", "demo", tmp_path / "tiny")
        for name in (".git/config", ".env"):
            planted.write(tmp_path / "tiny" / name, "token = {}\n", f"the model's folder: {name}")
        appliance("keys", "init", *keys)
        appliance("lock", path, *cache)
        appliance("--json", "lock", path, *cache)
        appliance("build", "bundle", path, *keys, *cache, "--out", out)
    appliance("verify", bundle, *keys)
    appliance("kit", bundle, *keys, "--out", tmp_path / "kit")
    appliance("split", bundle, *keys, "--size", "40M", "--out", tmp_path / "media")
    root = tmp_path / "keys/root.json"
    appliance("--json", "site", "check", "-i", site)
    reason = ("--skip-preflight", "a node that nobody answers for")
    appliance("install", "-i", site, "--root", root, bundle, *kept, "--check", "--diff", *reason, ok=(5,))
    appliance("doctor", "-i", site, "--out", tmp_path / "fault.tar.gz", *kept, ok=(0, 5))
    (tmp_path / "written").mkdir()
    shutil.copy(place / "d.lock.yml", tmp_path / "written")
    shutil.copy(tmp_path / "fault.tar.gz", tmp_path / "written")
    assert len(planted.secrets) >= 50
    places = {"bundle": out, "media": tmp_path / "media", "kit": tmp_path / "kit", "runs": runs, "lock and doctor": tmp_path / "written", "temporary files": tmp_path / "tmp"}  # fmt: skip
    hits = {name: found(planted, tree) for name, tree in places.items()}
    hits["screen"] = [(command, seen) for command, text in said.items() if (seen := planted.seen(text.encode()))]
    n_files = {name: sum(p.is_file() for p in tree.rglob("*")) for name, tree in places.items()}
    with capsys.disabled():
        print(f"\n{len(planted.secrets)} secrets planted; searched {n_files} files and the words of {len(said)} commands: {sum(map(len, hits.values()))} hits")  # fmt: skip
    assert hits == {name: [] for name in hits}
    assert n_files["runs"] >= 2 and list(runs.glob("*/ansible.log"))
    assert "PLAY" in next(iter(runs.glob("*/ansible.log"))).read_text()
    assert len(list((tmp_path / "media").glob("*"))) > 1
    # The search finds what is there: the same secrets in the places they were put into, packed and encoded.
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a", base64.b64encode(b"ab" + planted.secrets["netrc"].encode()))
    assert any(planted.seen(data) for _, data in texts("z", gzip.compress(archive.getvalue())))
    assert {name for name, _ in found(planted, home)} >= set(HOME)
