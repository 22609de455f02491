"""How a host reaches the network is read from what people set, and nothing secret of it can be seen."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from engine.addresses import lockable, secret_in
from engine.errors import InputError
from engine.process import run
from installer import definition, lockfile
from installer.network import aptconfig, host, logins, pipconfig, proxies
from installer.network.aptconfig import AptNetwork
from installer.network.host import Network
from installer.network.proxies import Proxies

NO_PIP = {"PATH": "/usr/bin:/bin", "PIP_CONFIG_FILE": "/dev/null"}
SHA = "0" * 64


# -- addresses --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "holds"),
    [
        ("https://u:p@h/x", "a user or password"),
        ("https://token@h/x", "a user or password"),
        ("https://h/x?X-Amz-Signature=1", "the parameter X-Amz-Signature"),
        ("https://h/x?v=1&sig=abc", "the parameter sig"),
        ("https://h/x?private_token=abc", "the parameter private_token"),
        ("https://h/x?%74oken=abc", "the parameter token"),
        ("docker://u:p@h/team/web:1", "a user or password"),
        ("docker://web@sha256:" + SHA, ""),
        ("docker://h:5000/team/web:1@sha256:" + SHA, ""),
        ("https://h/x@y/z?versionId=3&download=1", ""),
        ("file:///srv/a@b", ""),
    ],
)
def test_what_opens_a_source_is_seen_in_its_address(address: str, holds: str) -> None:
    assert secret_in(address) == holds


def test_a_lockable_address_keeps_what_finds_the_file_and_loses_what_opens_it() -> None:
    assert lockable("https://u:p@h:8443/x?versionId=3&X-Amz-Signature=1#f") == "https://h:8443/x?versionId=3"


PLANTED: dict[str, dict[str, Any]] = {
    "indexes": {"wheels": [{"indexes": ["https://u:s3cret@h/simple"]}]},
    "find_links": {"wheels": [{"find_links": ["https://h/f?token=s3cret"]}]},
    "requirements": {"wheels": [{"requirements": ["a @ https://u:s3cret@h/a-1-py3-none-any.whl"]}]},
    "an option among requirements": {"wheels": [{"requirements": ["--index-url https://u:s3cret@h/simple", "a"]}]},
    "constraints": {"wheels": [{"constraints": ["a @ git+https://s3cret@h/a.git"]}]},
    "direct": {"wheels": [{"direct": [{"url": "https://u:s3cret@h/a-1-py3-none-any.whl", "sha256": SHA}]}]},
    "debs": {"debs": {"sources": [{"uri": "https://u:s3cret@h/", "suites": ["x"], "signed_by": "k"}]}},
    "images": {"images": [{"name": "i", "source": "docker://u:s3cret@h/web:1", "profiles": ["gpu"]}]},
    "s3": {"models": [{"name": "m", "s3": {"endpoint": "https://u:s3cret@h", "bucket": "bucket"}, "profiles": ["gpu"]}]},
    "files": {"files": [{"name": "f", "url": "https://h/f?X-Amz-Signature=s3cret", "sha256": SHA, "profiles": ["gpu"]}]},
}  # fmt: skip


@pytest.mark.parametrize("place", PLANTED)
def test_a_definition_with_a_secret_in_an_address_is_refused_by_line_and_key_without_it(
    tmp_path: Path, place: str
) -> None:
    import yaml

    data: dict[str, Any] = {
        "schema": 1,
        "name": "d",
        "version": "1",
        "target": {"os": "debian-12", "python": "3.11"},
        **PLANTED[place],
    }
    for wheels in data.get("wheels", []):
        wheels.update({"name": "w", "profiles": ["gpu"], "requirements": wheels.get("requirements", ["a"])})
    if "debs" in data:
        data["debs"]["groups"] = [{"packages": ["tool"], "profiles": ["gpu"]}]
    path = tmp_path / "d.yml"
    path.write_text(yaml.safe_dump(data))
    with pytest.raises(InputError, match=r"d\.yml:[0-9]+: ") as failed:
        definition.load(path)
    assert "s3cret" not in str(failed.value)


@pytest.mark.parametrize("source", ["https://u:s3cret@h/f", "https://h/f?sig=s3cret"])
def test_a_lock_that_names_a_secret_is_refused_without_it(tmp_path: Path, source: str) -> None:
    good = lockfile.Artifact(
        path="files/f", kind="files", name="f", size=1, sha256=SHA, source="https://h/f", profiles=("gpu",)
    )
    lock = lockfile.Lock(name="d", version="1", definition_sha256=SHA, artifacts=(good,))
    path = tmp_path / "d.lock.yml"
    path.write_text(lockfile.dump(lock).replace("https://h/f", f"'{source}'"))
    from installer import yamlfile

    with pytest.raises(InputError, match="a lock names no secrets") as failed:
        yamlfile.parse(yamlfile.load(path), lockfile.Lock, schema="lock")
    assert "s3cret" not in str(failed.value)


def test_a_lock_says_how_its_builder_reached_its_sources_and_stays_when_only_that_changes(tmp_path: Path) -> None:
    environ = {
        **NO_PIP,
        "https_proxy": "http://u:s3cret@proxy:3128",
        "PIP_EXTRA_INDEX_URL": "https://u:s3cret@h/simple",
    }
    record = lockfile.Surroundings.model_validate(host.read(environ).record())
    old = lockfile.Lock(name="d", version="1", definition_sha256=SHA, network=record, artifacts=())
    text = lockfile.dump(old)
    assert "http://proxy:3128" in text
    assert "https://h/simple" in text
    assert "s3cret" not in text
    elsewhere = old.model_copy(update={"network": lockfile.Surroundings()})
    assert lockfile.kept(old, elsewhere) == old
    changed = elsewhere.model_copy(update={"version": "2"})
    assert lockfile.kept(old, changed) == changed


# -- the host ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("corp.test", "http://a.corp.test/", True),
        (".corp.test", "http://corp.test/", True),
        ("*.corp.test", "http://a.corp.test/", True),
        ("corp.test", "http://notcorp.test/", False),
        ("a.test:8443", "http://a.test:8443/", True),
        ("a.test:8443", "http://a.test/", False),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("fd00::/8", "http://[fd00::1]/", True),
        ("::1", "http://[::1]:80/", True),
        ("a.test, *", "http://b.test/", True),
        ("", "http://b.test/", False),
    ],
)
def test_no_proxy_is_read_as_curl_reads_it(no_proxy: str, url: str, direct: bool) -> None:
    found = proxies.from_environment({"http_proxy": "p:3128", "no_proxy": no_proxy})
    assert (found.for_url(url) is None) == direct


def test_a_proxys_login_is_taken_out_of_its_address_and_small_letters_come_first() -> None:
    found = proxies.from_environment({"HTTP_PROXY": "http://other:1", "http_proxy": "http://u:p%40ss@p:3128/"})
    assert found.http is not None
    assert (found.http.address, found.http.user, found.http.password) == ("http://p:3128", "u", "p@ss")
    assert "p@ss" not in repr(found)
    assert "p%40ss" not in repr(found)


@pytest.mark.parametrize("value", ["socks5://u:s3cret@h:1", "http://u:s3cret@h:port", "http://"])
def test_a_proxy_that_is_none_is_refused_by_its_variable_without_its_password(value: str) -> None:
    with pytest.raises(InputError, match="https_proxy") as failed:
        proxies.from_environment({"https_proxy": value})
    assert "s3cret" not in str(failed.value)


def test_a_broken_netrc_is_refused_by_line_without_its_words(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine h login u\npassword\n  s3cret oops\n")
    with pytest.raises(InputError, match=r"netrc:[0-9]") as failed:
        logins.from_netrc(tmp_path / "netrc")
    assert "s3cret" not in str(failed.value)


def test_a_netrcs_default_is_sent_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine h login u password p\ndefault login all password s3cret\n")
    network = Network(logins=logins.from_netrc(tmp_path / "netrc"))
    assert network.login("https://h:8443/x") is not None
    assert network.login("https://elsewhere/x") is None


def test_of_several_logins_for_a_host_the_one_with_the_longest_path_is_sent() -> None:
    text = "machine h login a password 1\nmachine h/deep login b password 2\nmachine http://h login c password 3\n"
    network = Network(logins=logins.from_apt(text))
    found = [network.login(url) for url in ("https://h/x", "https://h/deep/x", "http://h/deep/x", "https://other/")]
    assert [f.user if f else "" for f in found] == ["a", "b", "c", ""]


def test_an_auth_file_of_apt_without_a_machine_holds_no_logins() -> None:
    assert (
        logins.from_apt("") == logins.from_apt("# machine h login a password 1\n") == logins.from_apt("machine") == ()
    )


def test_a_ca_that_is_none_is_refused_by_its_variable(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")
    for value in (tmp_path / "ca", tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match="SSL_CERT_FILE"):
            host.read({**NO_PIP, "SSL_CERT_FILE": str(value)})


def test_every_form_of_every_secret_is_hidden() -> None:
    environ = {
        **NO_PIP,
        "http_proxy": "http://u:pr%2Foxy@p:1",
        "PIP_INDEX_URL": "https://u:in%2Fdex@h/s",
        "HF_TOKEN": "hf_12345",
    }
    network = host.read(environ)
    said = "pr/oxy pr%2Foxy in/dex in%2Fdex hf_12345 " + network.with_login("https://h/x") + repr(network)
    for secret in ("pr/oxy", "pr%2Foxy", "in/dex", "in%2Fdex", "hf_12345"):
        assert secret not in network.hide(said)
        assert secret not in repr(network)


def test_pips_options_are_read_from_the_sections_that_install_reads_the_strongest_last() -> None:
    text = (
        ":env:.index-url='http://env/s'\nglobal.index-url='http://global/s'\ndownload.index-url='http://download/s'\n"
        "global.extra-index-url='\\nhttp://a/s\\nhttp://b/s'\ninstall.extra-index-url='http://c/s'\nglobal.no-index='true'\n"
    )
    found = pipconfig.parse(text)
    assert (found.index, found.extra_indexes, found.no_index) == ("http://env/s", ("http://c/s",), True)


# -- apt --------------------------------------------------------------------------------------


def test_apts_proxies_stand_before_the_hosts_and_direct_means_none() -> None:
    own = AptNetwork({
        ("http", "Proxy"): "http://apt:1", ("http", "Proxy::inside.test"): "DIRECT",
        ("https", "Proxy"): "DIRECT", ("https", "Proxy::far.test"): "http://far:2",
    })  # fmt: skip
    host_proxy = proxies.parse("http://host:9", "")
    merged = own.merged(Network(Proxies(host_proxy, host_proxy))).proxies
    addresses = {
        url: (p.address if (p := merged.for_url(url)) else "")
        for url in ("http://a.test/", "http://inside.test/", "https://a.test/", "https://far.test/")
    }
    assert list(addresses.values()) == ["http://apt:1", "", "", "http://far:2"]


def test_logins_in_the_addresses_of_apts_own_sources_are_taken_out_and_used(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb [arch=amd64] https://u:s3cret@h/debian stable main\n")
    (tmp_path / "apt.conf.d").mkdir()
    (tmp_path / "apt.conf.d/1").write_text(
        'Acquire::https::Proxy "http://p:1";\nAcquire::https::Verify-Peer "false";\n'
    )

    class Quiet:
        def say(self, text: str) -> None: ...
        def begin(self, task: str, total_bytes: int | None = None) -> None: ...
        def advance(self, task: str, n_bytes: int) -> None: ...
        def end(self, task: str) -> None: ...

    own = aptconfig.read(tmp_path, Quiet())
    assert dict(own.options) == {("https", "Proxy"): "http://p:1"}  # and nothing that switches a check off
    assert own.merged(Network()).login("https://h/debian/x") is not None
    assert "s3cret" not in aptconfig.without_logins((tmp_path / "sources.list").read_text())


# -- child processes --------------------------------------------------------------------------

SHOW = [sys.executable, "-I", "-c", "import os; print('\\n'.join(sorted(os.environ)))"]


def test_a_tool_that_makes_content_sees_a_fixed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = (
        "UV_INDEX",
        "PIP_INDEX_URL",
        "GIT_DIR",
        "PYTHONPATH",
        "REQUESTS_CA_BUNDLE",
        "http_proxy",
        "TAR_OPTIONS",
        "X",
    )
    for name in names:
        monkeypatch.setenv(name, "bent")
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    seen = set(run(SHOW, inherit=False, env={"ASKED": "1"}).stdout.split())
    allowed = {
        "PATH",
        "LC_ALL",
        "TZ",
        "HOME",
        "USER",
        "LOGNAME",
        "TMPDIR",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
        "ASKED",
    }
    assert seen - {"LC_CTYPE"} <= allowed
    tz = run([sys.executable, "-I", "-c", "import os; print(os.environ['TZ'])"], inherit=False).stdout.strip()
    assert tz == "UTC"


def test_a_tool_that_acts_for_a_person_sees_the_agent_and_nothing_that_bends_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SSH_AUTH_SOCK", "LD_AUDIT_X", "PYTHONPATH", "BASH_ENV", "GIT_DIR"):
        monkeypatch.setenv(name, "/nonexistent")
    seen = set(run(SHOW).stdout.split())
    assert "SSH_AUTH_SOCK" in seen
    assert not seen & {"LD_AUDIT_X", "PYTHONPATH", "BASH_ENV", "GIT_DIR"}
