"""Every kind of content goes through the host's proxy, CA and logins alike, and no secret is in what comes out."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.blobs import Blobs
from engine.errors import ApplianceError, UpstreamError
from installer import lockfile, openpgp
from installer.definition import Definition
from installer.kinds import Work, debs, files, images, models
from installer.network import host
from installer.network.hiding import hidden
from tests.integration import aptsite, hub_double, netsite, registry, s3site
from tests.integration.test_models import TINY

LOGIN = "svc:pl4nted-Secret"
SECRETS = ("pl4nted-Secret", netsite.basic(LOGIN).removeprefix("Basic "))
CONTENT = b"a file\n" * 1000


def work(tmp_path: Path, environ: dict[str, str], cache: str = "cache", **content: Any) -> Work:
    """Work in a HOME of its own, on a host with these variables alone."""
    definition = Definition.model_validate(
        {
            "schema": 1, "name": "w", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"}, **content,
        }
    )  # fmt: skip
    around = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null", **environ}
    return Work(definition, tmp_path, Blobs(tmp_path / cache), reach=host.read(around))


def clean(job: Work, artifacts: list[lockfile.Artifact]) -> None:
    """The lock of these, with what it records of the host, holds no secret."""
    surroundings = lockfile.Surroundings.model_validate(job.network.record())
    text = lockfile.dump(lockfile.make(job.definition, artifacts, surroundings))
    assert not any(s in text for s in SECRETS)


def with_login(address: str) -> str:
    return address.replace("//", f"//{LOGIN}@")


def netrc(tmp_path: Path, name: str = "127.0.0.1") -> dict[str, str]:
    user, _, password = LOGIN.partition(":")
    (tmp_path / "logins").write_text(f"machine {name} login {user} password {password}\n")
    return {"NETRC": str(tmp_path / "logins")}


def a_file(url: str) -> dict[str, Any]:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    return {"files": [{"name": "a", "url": url, "sha256": sha256, "profiles": ["gpu"]}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "served").mkdir()
    (tmp_path / "served/a").write_bytes(CONTENT)
    return tmp_path / "served"


# -- files ------------------------------------------------------------------------------------


def test_a_file_comes_through_a_proxy_with_a_password_from_a_host_with_a_login(tmp_path: Path, folder: Path) -> None:
    with netsite.files(folder, login=LOGIN) as site, netsite.proxy(site, login=LOGIN) as proxy:
        environ = {"all_proxy": with_login(proxy.address), **netrc(tmp_path, "store.corp.test")}
        job = work(tmp_path, environ, **a_file("http://store.corp.test/a"))
        artifacts = files.resolve(job)
        files.fetch(work(tmp_path, environ, "other", **a_file("http://store.corp.test/a")), artifacts)
    clean(job, artifacts)
    assert job.network.record()["proxies"] == {"http": proxy.address, "https": proxy.address}
    assert site.paths(401) == []


def test_hosts_of_no_proxy_are_reached_directly(tmp_path: Path, folder: Path) -> None:
    with netsite.files(folder) as site:
        environ = {"http_proxy": "http://127.0.0.1:9", "NO_PROXY": "corp.test, 127.0.0.0/8"}
        files.resolve(work(tmp_path, environ, **a_file(f"{site.address}/a")))
    assert site.paths()


def test_a_file_comes_from_a_host_that_only_a_companys_ca_vouches_for(tmp_path: Path, folder: Path) -> None:
    ca, tls = netsite.private_ca(tmp_path / "ca")
    with netsite.files(folder, tls=tls) as site:
        job = work(tmp_path, {"CURL_CA_BUNDLE": str(ca)}, **a_file(f"{site.address}/a"))
        clean(job, files.resolve(job))
        assert str(job.network.record()["ca"]).startswith("sha256:")
        with pytest.raises(UpstreamError, match="certificate verify failed"):
            files.resolve(work(tmp_path, {}, "other", **a_file(f"{site.address}/a")))


def test_a_redirect_takes_no_login_to_another_host_and_uses_that_hosts_own(tmp_path: Path, folder: Path) -> None:
    with netsite.files(folder) as storage:
        to = storage.address.replace("127.0.0.1", "localhost")
        with netsite.files(folder, login=LOGIN, redirects={"/go/": f"{to}/"}) as site:
            files.resolve(work(tmp_path, netrc(tmp_path), **a_file(f"{site.address}/go/a")))
    assert {authorization for _, _, authorization in storage.asked} == {""}


def test_a_redirect_to_a_local_file_or_in_a_circle_is_refused(tmp_path: Path, folder: Path) -> None:
    with netsite.files(folder, redirects={"/here/": "/here/", "/etc/": "file:///etc/"}) as site:
        for path, reason in (("here/a", "redirects more than"), ("etc/a", "not a web address")):
            with pytest.raises(UpstreamError, match=reason):
                files.resolve(work(tmp_path, {}, **a_file(f"{site.address}/{path}")))


def test_the_body_of_a_redirect_is_never_read(tmp_path: Path, folder: Path) -> None:
    sent: list[int] = []

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(302)
            self.send_header("Location", f"{site.address}/a")
            self.end_headers()
            with contextlib.suppress(OSError):
                while sum(sent) < 1 << 30:
                    sent.append(self.wfile.write(b"x" * (1 << 20)))

        def log_message(self, format: str, *args: object) -> None: ...

    with netsite.files(folder) as site, netsite.serving(Endless, netsite.Site("")) as endless:
        files.resolve(work(tmp_path, {}, **a_file(f"{endless.address}/x")))
    assert sum(sent) < 64 << 20


@pytest.mark.parametrize("fault", ["refused login", "gone", "closed port", "proxy refuses"])
def test_no_failure_repeats_a_secret(tmp_path: Path, folder: Path, fault: str) -> None:
    wrong = {"refused login": "some:body"}.get(fault, "")
    with netsite.files(folder, login=wrong) as site, netsite.proxy(site, login="some:body") as proxy:
        environ = netrc(tmp_path)
        if fault == "proxy refuses":
            environ |= {"http_proxy": with_login(proxy.address)}
        address = (
            "http://127.0.0.1:9/a" if fault == "closed port" else f"{site.address}/{'b' if fault == 'gone' else 'a'}"
        )
        job = work(tmp_path, environ, **a_file(address))
        with pytest.raises(ApplianceError) as failed, hidden(job.network):
            files.resolve(job)
    said = f"{failed.value} {failed.value.args} {failed.value.where}"
    assert not any(s in said for s in SECRETS)
    expected = {"refused login": "401", "gone": "404", "closed port": "refused", "proxy refuses": "407"}[fault]
    assert expected in said


# -- packages ---------------------------------------------------------------------------------


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[aptsite.Site]:
    key = aptsite.make_key(tmp_path / "gpg", "vendor")
    with aptsite.serve(tmp_path / "apt") as site:
        site.deb("tool")
        site.publish(key)
        (tmp_path / "vendor.asc").write_bytes(openpgp.public(key[0]))
        yield site


def packages(uri: str) -> dict[str, Any]:
    source = {"uri": uri, "suites": ["./"], "signed_by": "vendor.asc"}
    return {"debs": {"sources": [source], "groups": [{"packages": ["tool"], "profiles": ["gpu"]}]}}


def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, conf: str = "", auth: str = "") -> None:
    """The builder's /etc/apt, elsewhere."""
    place = tmp_path / "etc-apt"
    for name in ("apt.conf.d", "auth.conf.d", "sources.list.d"):
        (place / name).mkdir(parents=True)
    (place / "apt.conf.d/95site").write_text(conf)
    (place / "auth.conf.d/site.conf").write_text(auth)
    (place / "auth.conf.d/site.conf").chmod(0o600)
    monkeypatch.setattr(debs, "BUILDERS_APT", place)


def lock_and_fetch(tmp_path: Path, environ: dict[str, str], uri: str) -> Work:
    job = work(tmp_path, environ, **packages(uri))
    artifacts = debs.resolve(job)
    again = work(tmp_path, environ, "other", **packages(uri))
    debs.fetch(again, artifacts)
    debs.check(again, artifacts)
    clean(job, artifacts)
    return job


def test_packages_take_the_proxy_of_the_builders_own_apt(
    tmp_path: Path, vendor: aptsite.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with netsite.proxy(netsite.Site(vendor.url), login=LOGIN) as proxy:
        etc(tmp_path, monkeypatch, conf=f'Acquire::http::Proxy "{with_login(proxy.address)}";\n')
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # apt's own setting stands before it
        lock_and_fetch(tmp_path, {"http_proxy": "http://127.0.0.1:9"}, "http://mirror.corp.test/")
    assert any(path.endswith("InRelease") for path in proxy.paths())
    assert any(path.endswith(".deb") for path in proxy.paths())


def test_packages_take_the_proxy_that_apts_program_chooses_and_go_directly_where_it_says_so(
    tmp_path: Path, vendor: aptsite.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # apt runs it as a user of its own, which pytest's directories keep out.
    with netsite.proxy(netsite.Site(vendor.url)) as proxy, tempfile.TemporaryDirectory(prefix="appliance-") as open_to:
        program = Path(open_to, "choose")
        program.write_text(f'#!/bin/sh\ncase "$1" in *corp.test*) echo {proxy.address} ;; *) echo DIRECT ;; esac\n')
        program.chmod(0o755)
        program.parent.chmod(0o755)
        etc(tmp_path, monkeypatch, conf=f'Acquire::http::Proxy-Auto-Detect "{program}";\n')
        lock_and_fetch(tmp_path, {}, "http://mirror.corp.test/")
        asked = len(proxy.asked)
        debs.resolve(work(tmp_path, {}, **packages(vendor.url)))
    assert any(path.endswith(".deb") for path in proxy.paths())
    assert len(proxy.asked) == asked


@pytest.mark.parametrize("place", ["auth.conf", "netrc"])
def test_packages_behind_a_login_come_with_apts_auth_files_and_with_netrc(
    tmp_path: Path, vendor: aptsite.Site, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    user, _, password = LOGIN.partition(":")
    with netsite.front(vendor.url.split("//")[1].rstrip("/"), login=LOGIN) as locked:
        line = f"machine {locked.address} login {user} password {password}\n"
        etc(tmp_path, monkeypatch, auth=line if place == "auth.conf" else "")
        lock_and_fetch(tmp_path, netrc(tmp_path) if place == "netrc" else {}, f"{locked.address}/")
    assert any(path.endswith(".deb") for path in locked.paths())


def test_packages_come_from_a_host_that_only_a_companys_ca_vouches_for(
    tmp_path: Path, vendor: aptsite.Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    etc(tmp_path, monkeypatch)
    ca, tls = netsite.private_ca(tmp_path / "ca")
    with netsite.front(vendor.url.split("//")[1].rstrip("/"), tls=tls) as site:
        lock_and_fetch(tmp_path, {"SSL_CERT_FILE": str(ca)}, f"{site.address}/")


# -- images -----------------------------------------------------------------------------------


def test_an_image_comes_through_proxy_tls_of_a_companys_ca_and_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = registry.Layout(tmp_path / "layout")
    layout.image("web", ["one", "two"])
    ca, tls = netsite.private_ca(tmp_path / "ca", "registry.corp.test")
    auths = {"auths": {"registry.corp.test": {"auth": base64.b64encode(LOGIN.encode()).decode()}}}
    (tmp_path / "auth.json").write_text(json.dumps(auths))
    with registry.serve(tmp_path / "registry") as running:
        running.push(layout, "web", "team/web:1.0")
        # Only now: a registry takes every REGISTRY_… for its own configuration.
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
        with netsite.front(running.host, login=LOGIN, tls=tls) as site, netsite.proxy(site, login=LOGIN) as proxy:
            environ = {"https_proxy": with_login(proxy.address), "SSL_CERT_FILE": str(ca)}
            image = {"name": "web", "source": "docker://registry.corp.test/team/web:1.0", "profiles": ["gpu"]}
            job = work(tmp_path, environ, images=[image])
            artifacts = images.resolve(job)
            images.fetch(job, artifacts)
            images.check(job, artifacts)
    clean(job, artifacts)
    assert "registry.corp.test:443" in proxy.paths()


# -- models -----------------------------------------------------------------------------------


def test_a_hubs_listing_and_files_come_through_a_proxy_with_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_double.running() as hub:
        hub.repos["maker/tiny"] = hub_double.Repo(dict(TINY))
        with netsite.proxy(netsite.Site(hub.endpoint), login=LOGIN) as proxy:
            monkeypatch.setenv("HF_ENDPOINT", "http://hub.corp.test")
            monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "none"))
            monkeypatch.delenv("HF_TOKEN", raising=False)
            environ = {"http_proxy": with_login(proxy.address), "no_proxy": "127.0.0.1"}
            model = {"name": "tiny", "hub": "maker/tiny", "revision": hub_double.REVISION, "profiles": ["gpu"]}
            job = work(tmp_path, environ, models=[model])
            artifacts = models.resolve(job)
            models.fetch(job, artifacts)
            refused = work(tmp_path, {"http_proxy": proxy.address}, "other", models=[model])
            with pytest.raises(UpstreamError, match="407"):
                models.resolve(refused)
    clean(job, artifacts)
    assert any("/api/models/" in path for path in proxy.paths())


def test_a_stores_listing_and_objects_come_through_a_proxy_with_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3site.serve(tmp_path / "s3.log") as store:
        store.client().create_bucket(Bucket=s3site.BUCKET)
        for name, data in TINY.items():
            store.client().put_object(Bucket=s3site.BUCKET, Key=f"team/tiny/{name}", Body=data)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "setup")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "pl4nted-Secret")
        with netsite.proxy(netsite.Site(store.direct), login=LOGIN) as proxy:
            place = {"endpoint": store.direct, "bucket": s3site.BUCKET, "prefix": "team/tiny", "region": s3site.REGION}
            model = {"name": "tiny", "s3": place, "profiles": ["gpu"]}
            job = work(tmp_path, {"http_proxy": with_login(proxy.address)}, models=[model])
            artifacts = models.resolve(job)
            models.fetch(work(tmp_path, {"http_proxy": with_login(proxy.address)}, "other", models=[model]), artifacts)
    clean(job, artifacts)
    assert any("list-type=2" in path for path in proxy.paths())
    assert any(path.endswith("model.safetensors") for path in proxy.paths(206))
