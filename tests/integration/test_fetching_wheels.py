"""Wheels come from where the definition or pip's configuration says, whatever the shell holds, and through logins, proxies and CAs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine.blobs import Blobs
from engine.errors import InputError, UpstreamError
from installer.definition import Definition
from installer.kinds import Work, wheels
from installer.lockfile import Artifact
from installer.network import host
from tests.integration import netsite
from tests.integration.wheelsite import wheel

LOGIN = "bob:t0k:en@of/the%test"
QUOTED = "bob:t0k%3Aen%40of%2Fthe%25test"
SECRETS = ("t0k:en", "t0k%3Aen", netsite.basic(LOGIN).removeprefix("Basic "))


def offer(
    folder: Path,
    name: str,
    version: str,
    tag: str = "py3-none-any",
    *,
    metadata: bool = True,
    base: str = "../../files",
) -> None:
    """A wheel below ``files/`` and its page below ``simple/``; with PEP 658 metadata beside it."""
    file = wheel(folder / "files", name, version, tag=tag)
    if metadata:
        text = f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\nLicense-Expression: Apache-2.0\n"
        file.with_name(file.name + ".metadata").write_text(text)
    page = folder / "simple" / name / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    known = ' data-core-metadata="true"' if metadata else ""
    before = page.read_text() if page.exists() else "<!DOCTYPE html>\n"
    page.write_text(f'{before}<a href="{base}/{file.name}#sha256={sha256}"{known}>{file.name}</a><br>\n')


def work(tmp_path: Path, environ: dict[str, str], *requirements: str, **more: object) -> Work:
    """Work on one set of wheels, with a HOME of its own and these variables alone."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    definition = Definition.model_validate(
        {
            "schema": 1, "name": "w", "version": "1.0.0", "target": {"os": "debian-12", "python": "3.11"},
            "wheels": [{"name": "app", "requirements": list(requirements), "profiles": ["gpu"], **more}],
        }
    )  # fmt: skip
    around = {"HOME": str(home), "PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null", **environ}
    return Work(definition, tmp_path, Blobs(tmp_path / "cache"), reach=host.read(around))


def versions(artifacts: list[Artifact]) -> dict[str, str]:
    return {a.name: a.version for a in artifacts}


def both(job: Work) -> list[Artifact]:
    """Lock and fetch, as `lock` and `build` do one after the other."""
    artifacts = wheels.resolve(job)
    wheels.fetch(job, artifacts)
    wheels.check(job, artifacts)
    for artifact in artifacts:
        assert not any(s in artifact.model_dump_json() for s in SECRETS)
    return artifacts


@pytest.mark.parametrize(
    "name", ["UV_EXTRA_INDEX_URL", "UV_INDEX", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_FIND_LINKS"]
)
def test_what_the_shell_says_to_uv_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    offer(tmp_path / "house", "plain", "1.0")
    offer(tmp_path / "other", "plain", "9.9")
    with netsite.files(tmp_path / "house") as house, netsite.files(tmp_path / "other") as other:
        monkeypatch.setenv(name, f"{other.address}/{'files' if name == 'UV_FIND_LINKS' else 'simple'}/")
        found = wheels.resolve(work(tmp_path, {}, "plain", indexes=[f"{house.address}/simple"]))
    assert versions(found) == {"plain": "1.0"}
    assert other.asked == []


def test_neither_a_strategy_nor_a_configuration_of_uv_changes_the_order_of_indexes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path / "house", "plain", "1.0")
    offer(tmp_path / "other", "plain", "9.9")
    (tmp_path / "uv.toml").write_text('index-strategy = "unsafe-best-match"\n')
    for name, value in {
        "UV_INDEX_STRATEGY": "unsafe-best-match", "UV_CONFIG_FILE": str(tmp_path / "uv.toml"), "UV_PRERELEASE": "allow",
        "UV_RESOLUTION": "lowest", "UV_EXCLUDE_NEWER": "2001-01-01", "UV_OVERRIDE": "/nonexistent", "UV_OFFLINE": "1",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PYTHONPATH": "/nonexistent", "LD_PRELOAD": "/nonexistent.so",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with netsite.files(tmp_path / "house") as house, netsite.files(tmp_path / "other") as other:
        both_of_them = [f"{house.address}/simple", f"{other.address}/simple"]
        assert versions(wheels.resolve(work(tmp_path, {}, "plain", indexes=both_of_them))) == {"plain": "1.0"}


def test_indexes_of_pip_are_one_pool_as_with_pip(tmp_path: Path) -> None:
    """The highest version that fits is taken; a wheel of it for another Python alone hides no other."""
    offer(tmp_path / "extra", "corp", "2.0")
    offer(tmp_path / "index", "corp", "1.0")
    offer(tmp_path / "extra", "shared", "1.0")
    offer(tmp_path / "index", "shared", "2.0")
    offer(tmp_path / "extra", "compiled", "3.0", "cp39-cp39-manylinux2014_x86_64")
    offer(tmp_path / "index", "compiled", "3.0", "cp311-cp311-manylinux2014_x86_64")
    with netsite.files(tmp_path / "extra") as extra, netsite.files(tmp_path / "index") as index:
        environ = {"PIP_EXTRA_INDEX_URL": f"{extra.address}/simple", "PIP_INDEX_URL": f"{index.address}/simple"}
        found = wheels.resolve(work(tmp_path, environ, "corp", "shared", "compiled"))
    assert versions(found) == {"corp": "2.0", "shared": "2.0", "compiled": "3.0"}
    assert next(a.path for a in found if a.name == "compiled").endswith("-cp311-cp311-manylinux2014_x86_64.whl")


def test_extra_indexes_of_pip_are_not_asked_where_the_definition_names_its_own(tmp_path: Path) -> None:
    offer(tmp_path / "extra", "plain", "9.9")
    offer(tmp_path / "house", "plain", "1.0")
    with netsite.files(tmp_path / "extra") as extra, netsite.files(tmp_path / "house") as house:
        environ = {
            "PIP_EXTRA_INDEX_URL": f"{extra.address}/simple",
            "PIP_INDEX_URL": f"{extra.address}/simple",
            "PIP_FIND_LINKS": f"{extra.address}/files/",
        }
        found = wheels.resolve(work(tmp_path, environ, "plain", indexes=[f"{house.address}/simple"]))
    assert versions(found) == {"plain": "1.0"}
    assert extra.asked == []


def test_pips_files_are_read_and_its_variables_are_stronger(tmp_path: Path) -> None:
    offer(tmp_path / "house", "plain", "1.0")
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://127.0.0.1:9/simple\nextra-index-url =\n  http://127.0.0.1:9/a\n  http://127.0.0.1:9/b\n"
    )
    with netsite.files(tmp_path / "house") as house:
        environ = {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
        assert work(tmp_path, environ, "plain").network.pip.extra_indexes == (
            "http://127.0.0.1:9/a",
            "http://127.0.0.1:9/b",
        )
        environ |= {"PIP_INDEX_URL": f"{house.address}/simple", "PIP_EXTRA_INDEX_URL": f"{house.address}/simple"}
        assert versions(wheels.resolve(work(tmp_path, environ, "plain"))) == {"plain": "1.0"}


def test_a_pip_configuration_that_pip_cannot_read_stops_and_does_not_fall_back(tmp_path: Path) -> None:
    (tmp_path / "pip.conf").write_text(f"index-url = http://{QUOTED}@127.0.0.1/simple\n")
    with pytest.raises(InputError, match="pip cannot read its configuration") as failed:
        work(tmp_path, {"PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}, "plain")
    assert not any(s in str(failed.value) for s in SECRETS)


@pytest.mark.parametrize("metadata", [True, False])
def test_an_index_behind_a_login_in_pips_configuration_gives_pages_metadata_and_files(
    tmp_path: Path, metadata: bool
) -> None:
    offer(tmp_path / "mirror", "plain", "1.0", metadata=metadata)
    with netsite.files(tmp_path / "mirror", login=LOGIN) as mirror:
        address = mirror.address.replace("//", f"//{QUOTED}@") + "/simple"
        found = both(work(tmp_path, {"PIP_INDEX_URL": address}, "plain"))
    assert found[0].source.startswith(mirror.address)


def test_an_index_of_the_definition_takes_its_login_from_netrc(tmp_path: Path) -> None:
    offer(tmp_path / "mirror", "plain", "1.0")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login bob password a-t0ken\n")
    with netsite.files(tmp_path / "mirror", login="bob:a-t0ken") as mirror:
        job = work(tmp_path, {"NETRC": str(tmp_path / "netrc")}, "plain", indexes=[f"{mirror.address}/simple"])
        assert versions(both(job)) == {"plain": "1.0"}
        (tmp_path / "home/.netrc").write_text((tmp_path / "netrc").read_text())
        again = work(tmp_path, {}, "plain", indexes=[f"{mirror.address}/simple"])
        assert versions(wheels.resolve(again)) == {"plain": "1.0"}


def test_the_storage_that_a_mirror_redirects_to_is_not_told_the_mirrors_token(tmp_path: Path) -> None:
    offer(tmp_path / "mirror", "plain", "1.0", metadata=False)
    (tmp_path / "mirror/files").rename(tmp_path / "stored")
    (tmp_path / "storage").mkdir()
    (tmp_path / "stored").rename(tmp_path / "storage/files")
    with (
        netsite.files(tmp_path / "storage") as storage,
        netsite.files(tmp_path / "mirror", login=LOGIN, redirects={"/files/": f"{storage.address}/files/"}) as mirror,
    ):
        both(work(tmp_path, {"PIP_INDEX_URL": mirror.address.replace("//", f"//{QUOTED}@") + "/simple"}, "plain"))
    assert storage.paths()
    assert {authorization for _, _, authorization in storage.asked} == {""}


def test_a_proxy_with_a_password_is_used_by_the_resolver_and_by_the_downloader(tmp_path: Path) -> None:
    offer(tmp_path / "mirror", "plain", "1.0")
    with netsite.files(tmp_path / "mirror") as mirror, netsite.proxy(mirror, login=LOGIN) as proxy:
        environ = {"http_proxy": proxy.address.replace("//", f"//{QUOTED}@")}
        found = both(work(tmp_path, environ, "plain", indexes=["http://mirror.corp.test/simple"]))
        assert found[0].source.startswith("http://mirror.corp.test/files/")
        with pytest.raises(UpstreamError, match=r"407.*The proxy wants a login") as failed:
            wheels.fetch(_elsewhere(tmp_path, {"http_proxy": proxy.address}), found)
    assert any(path.endswith(".whl") for path in proxy.paths())
    assert "mirror.corp.test" in str(failed.value)


def _elsewhere(tmp_path: Path, environ: dict[str, str]) -> Work:
    """The same with an empty cache."""
    job = work(tmp_path, environ, "plain", indexes=["http://mirror.corp.test/simple"])
    return Work(job.definition, job.base, Blobs(tmp_path / "another-cache"), reach=job.network)


def test_a_companys_ca_and_a_proxy_that_tunnels_are_used_for_every_part(tmp_path: Path) -> None:
    offer(tmp_path / "mirror", "plain", "1.0")
    ca, tls = netsite.private_ca(tmp_path / "ca", "mirror.corp.test")
    with netsite.files(tmp_path / "mirror", tls=tls) as mirror, netsite.proxy(mirror, login=LOGIN) as proxy:
        through = {"HTTPS_PROXY": proxy.address.replace("//", f"//{QUOTED}@"), "REQUESTS_CA_BUNDLE": str(ca)}
        job = work(tmp_path, through, "plain", indexes=["https://mirror.corp.test/simple"])
        assert versions(both(job)) == {"plain": "1.0"}
        with pytest.raises(UpstreamError, match="certificate"):  # before uv has anything of it in its cache
            wheels.resolve(work(tmp_path, {}, "plain", indexes=[f"{mirror.address}/simple"]))
        direct = work(tmp_path, {"SSL_CERT_FILE": str(ca)}, "plain", indexes=[f"{mirror.address}/simple"])
        assert versions(wheels.resolve(direct)) == {"plain": "1.0"}


def test_a_wheel_behind_a_signed_link_is_locked_without_the_signature_and_kept(tmp_path: Path) -> None:
    offer(tmp_path / "mirror", "plain", "1.0", metadata=False)
    page = tmp_path / "mirror/simple/plain/index.html"
    page.write_text(page.read_text().replace(".whl#", ".whl?X-Amz-Signature=0123456789abcdef&amp;v=1#"))
    with netsite.files(tmp_path / "mirror") as mirror:
        found = both(work(tmp_path, {}, "plain", indexes=[f"{mirror.address}/simple"]))
    assert found[0].source.endswith(".whl?v=1")


def test_a_refused_login_and_a_closed_port_say_so_without_the_password(tmp_path: Path) -> None:
    offer(tmp_path / "mirror", "plain", "1.0")
    with netsite.files(tmp_path / "mirror", login="somebody:else") as mirror:
        address = mirror.address.replace("//", f"//{QUOTED}@") + "/simple"
        with pytest.raises(InputError, match="no solution") as refused:
            wheels.resolve(work(tmp_path, {"PIP_INDEX_URL": address}, "plain"))
    with pytest.raises(UpstreamError, match=r"the index http://127\.0\.0\.1:\d+/simple does not answer") as closed:
        wheels.resolve(work(tmp_path, {"PIP_INDEX_URL": address}, "plain"))
    for failed in (refused, closed):
        assert not any(s in str(failed.value) for s in SECRETS)
