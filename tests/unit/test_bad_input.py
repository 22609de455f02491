"""Every boundary turns what it cannot use into one sentence, within bounded time and memory. A new input is one line of a table."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import addresses, inputfile, refusals
from engine.blobs import Blobs
from engine.download import Downloader, Item
from engine.errors import ApplianceError, Exit, InputError, ResourceError
from installer import aptmirror, definition, modelcard, yamlfile
from installer.cli.main import main
from installer.kinds import pins
from installer.pki import Authority, utc_now
from installer.site import inventoryfiles
from installer.trust import downgrade, envelope, planapproval, secret, signer
from installer.trust.keys import KeyStore
from tests.bundles import NOW, PASSPHRASE

SECONDS = 10
KEY = signer.read_public


@contextmanager
def within(seconds: int = SECONDS) -> Iterator[None]:
    """Fail what takes longer, also where it waits in the kernel."""

    def late(*_: object) -> None:
        raise AssertionError(f"it took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def said(capsys: pytest.CaptureFixture[str], *argv: str | Path, code: int) -> str:
    """All that a command prints, which ends with this exit code."""
    with within(30), pytest.raises(SystemExit) as ended:
        main([str(a) for a in argv])
    told = capsys.readouterr()
    assert ended.value.code == code, told.err
    assert "internal error" not in told.err and "Traceback" not in told.err
    return told.out + told.err


# -- files ------------------------------------------------------------------------------------
def directory(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def endless(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


def binary(path: Path) -> None:
    path.write_bytes(bytes(range(256)))


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def nothing(path: Path) -> None: ...


FILES = [directory, pipe, zeros, endless, binary, loop, nothing]
READERS: dict[str, Callable[[Path], Any]] = {
    "a definition": definition.load,
    "lines of a document": yamlfile.positions,
    "an inventory": lambda p: inventoryfiles.require_sound(p, "hosts.yml"),
    "pins": pins.load,
    "a passphrase": lambda p: secret.passphrase(p, purpose="a key"),
    "a public key": signer.read_public,
    "an envelope": lambda p: envelope.unseal(p, "kind", p),
    "a plan": planapproval.digest_of,
    "an approval": lambda p: downgrade.opened(p, downgrade.Policy.model_construct(threshold=1, keys=()), "kind"),
    "a text": lambda p: inputfile.text(p, 1 << 20),
}


@pytest.mark.parametrize("make", FILES, ids=lambda f: f.__name__)
@pytest.mark.parametrize("reader", READERS)
def test_what_is_not_a_readable_file_is_named(tmp_path: Path, reader: str, make: Callable[[Path], None]) -> None:
    if (reader, make) == ("an inventory", directory):
        tmp_path = tmp_path / "empty"
        tmp_path.mkdir()
    path = tmp_path / "given.yml"
    make(path)
    if make is binary:
        path.chmod(0o600)
    with within(), pytest.raises(ApplianceError) as met:
        READERS[reader](path)
    assert str(path) in met.value.where and met.value.remedy
    assert met.value.exit_code in (Exit.USAGE, Exit.UNTRUSTED)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (directory, "a directory, not a regular file"), (pipe, "a pipe, not a regular file"), (zeros, "a device, not a regular file"),
        (endless, "larger than 1 MiB"), (binary, "not text in UTF-8"), (loop, "Too many levels"), (nothing, "No such file"),
    ],
)  # fmt: skip
def test_a_file_is_refused_for_what_it_is(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "f")
    with within(), pytest.raises(InputError, match=words) as met:
        inputfile.text(tmp_path / "f", 1 << 20, "the list")
    assert met.value.what.startswith("cannot read the list: ")


def test_a_file_that_may_not_be_read_is_a_matter_of_rights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").touch()

    def refuse(path: Path, *_: object) -> int:
        raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ResourceError, match="Permission denied") as met:
        inputfile.read(tmp_path / "f", 10)
    assert met.value.exit_code == Exit.RESOURCE and met.value.where == str(tmp_path / "f")


def test_the_line_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"one\ntwo\nthr\xffee\n")
    with pytest.raises(InputError) as met:
        inputfile.text(tmp_path / "f", 100)
    assert met.value.where == f"{tmp_path / 'f'}:3"


def test_a_passphrase_may_come_through_a_pipe_of_the_shell(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from installer.trust import secret; print(secret.passphrase(Path(sys.argv[1]), purpose='x'))"
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "$1" <(sleep 0.3; echo correct-horse-battery)', "bash", program],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "correct-horse-battery\n", done.stderr


def test_a_pipe_that_does_not_end_is_not_waited_for() -> None:
    reader, writer = os.pipe()
    try:
        with within(), pytest.raises(InputError, match="did not end in time"):
            inputfile.given(Path(f"/dev/fd/{reader}"), 100, pipe_s=0.2)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("make", [pipe, zeros], ids=lambda f: f.__name__)
def test_a_locked_file_that_became_a_pipe_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "f")
    with within(), pytest.raises(ApplianceError) as met:
        Downloader(Blobs(tmp_path / "cache")).fetch(Item("f", (tmp_path / "f").as_uri(), "0" * 64, 10))
    assert met.value.where == str(tmp_path / "f")


# -- YAML -------------------------------------------------------------------------------------
BOMB = b"a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + b"".join(
    b"a%d: &a%d [%s]\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 30)
)
YAML: list[tuple[bytes, int, str]] = [
    (b"a: 1\nb:\n\tc: 2\n", 3, "a tab begins the line"),
    (b"a: 1\n\xff\n", 2, "not text in UTF-8"),
    (b"\xff\xfea\x00:\x00", 1, "not text in UTF-8"),
    (b"a: 1\nb: \x07\n", 2, "control characters"),
    (b"a: 1\nb: c\x00\n", 2, "control characters"),
    (b"a: {b: 1, b: 2}\n", 1, "duplicate key 'b'"),
    (b"a:\n  b: 1\n  c: 2\n  b: 3\n", 4, "duplicate key 'b'"),
    (b"a: 1\nb: {{ c }}\n", 2, "a key must be text"),
    (b"- a\n- b\n", 1, "must be a mapping"),
    (b"hello\n", 1, "must be a mapping"),
    (b"a: 1\nb: [\n", 3, "not valid YAML"),
    (b"a: 1\nb: 2020-99-99\n", 2, "month must be in"),
    (b"a: 1\nb: " + b"9" * 5000, 2, "4300 digits"),
    (b"a: &a [*a]\n", 1, "stands for what it is part of"),
    (BOMB, 6, "aliases"),
    (b"a: " + b"[" * 100_000, 0, "nested more than"),
    (b"a: " + b"{b: " * 5_000, 0, "nested more than"),
    (b"- " * 100_000, 0, "nested more than"),
]


@pytest.mark.parametrize(("text", "line", "words"), YAML, ids=[w[:20] + str(n) for n, (_, _, w) in enumerate(YAML)])
def test_yaml_that_cannot_be_used_is_placed(tmp_path: Path, text: bytes, line: int, words: str) -> None:
    (tmp_path / "hosts.yml").write_bytes(text)
    with within(60), pytest.raises(InputError, match=words) as met:
        inventoryfiles.require_sound(tmp_path, "hosts.yml")
    assert met.value.where == f"{tmp_path / 'hosts.yml'}" + (f":{line}" if line else "")


def test_an_alias_that_stays_small_is_allowed_in_an_inventory(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("a: &a {b: 1}\nc: {<<: *a}\nd: [*a, *a]\n")
    (tmp_path / "ini").write_text("[gpu]\nnode-1\n")
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars/all").write_bytes(b"$ANSIBLE_VAULT;1.1;AES256\n\t3132")
    inventoryfiles.require_sound(tmp_path, "hosts.yml")


def test_a_file_in_an_inventory_that_is_not_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("gpu:\n  hosts: {}\n")
    pipe(tmp_path / "more")
    with within(), pytest.raises(InputError, match="a pipe") as met:
        inventoryfiles.require_sound(tmp_path, "hosts.yml")
    assert met.value.where == str(tmp_path / "more")


def test_a_large_file_takes_little_memory(tmp_path: Path) -> None:
    (tmp_path / "d.yml").write_bytes(b"[" + b"[]," * 5_000_000 + b"]")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with within(60), pytest.raises(InputError, match="more than 1000000 values"):
        yamlfile.load(tmp_path / "d.yml")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_brackets_of_a_model_card_do_not_end_the_process() -> None:
    assert modelcard.licence([], b"---\nlicense: mit\nx: " + b"[" * 60_000 + b"\n---\n") == ""


# -- addresses --------------------------------------------------------------------------------
ADDRESSES = {
    "http://127.0.0.1:99999/a": "the port", "http://127.0.0.1:x/a": "the port", "http://127.0.0.1:0/a": "the port", "http://[": "URL",
    "http:///x": "no host", "https://:8443/": "no host", "http://h/a b": "spaces", "http://h/%0aHost": "control", "file:%00": "control",
    "file://host/x": "names no host", "file:": "needs a path",
}  # fmt: skip
DEFINITION = """schema: 1
name: d
version: 1.0.0
target: {{os: debian-12, python: "3.11"}}
files:
  - {{name: a.txt, url: "{url}", sha256: "{sha256}", profiles: [gpu]}}
"""


@pytest.mark.parametrize("url", ADDRESSES)
def test_an_address_that_cannot_be_asked_is_refused_with_its_line(tmp_path: Path, url: str) -> None:
    (tmp_path / "d.yml").write_text(DEFINITION.format(url=url, sha256="0" * 64))
    with pytest.raises(InputError, match=ADDRESSES[url]) as met:
        definition.load(tmp_path / "d.yml")
    assert f"{tmp_path / 'd.yml'}:6: files.0.url: " in met.value.what


@pytest.mark.parametrize(
    "url", ["http://h/a", "https://h:8443/a%20b", "file:a b.txt", "file:///a", "https://[::1]:1/", "http://h/ä"]
)
def test_a_good_address_passes(url: str) -> None:
    assert addresses.fault(url) == ""


@pytest.mark.parametrize(
    "url", ["http://u:geheim@[", "http://u:geheim@h:99999/x", "http://u:geheim@h:x/x", "http://u:geheim@h/x"]
)
def test_an_address_in_a_message_shows_no_login(url: str) -> None:
    assert "geheim" not in addresses.public(url) + addresses.fault(url)


LOGINS = {
    "find_links": 'wheels: [{{name: w, requirements: [a], find_links: ["{url}"], profiles: [gpu]}}]',
    "indexes": 'wheels: [{{name: w, requirements: [a], indexes: ["{url}"], profiles: [gpu]}}]',
    "uri": 'debs: {{sources: [{{uri: "{url}", suites: [x], signed_by: k}}], groups: [{{packages: [a], profiles: [gpu]}}]}}',
    "url": 'files: [{{name: a, url: "{url}", sha256: x, profiles: [gpu]}}]',
}


@pytest.mark.parametrize("field", LOGINS)
@pytest.mark.parametrize(
    "url", ["http://user:geheim@h/", "http://user:ge heim@h/", "http://user:geheim@h:99999/", "http://user:geheim@[", "ftp://user:geheim@h/", "http://h/?token=geheim"]
)  # fmt: skip
def test_a_login_in_a_definition_is_in_no_message(tmp_path: Path, field: str, url: str) -> None:
    text = 'schema: 1\nname: d\nversion: 1.0.0\ntarget: {os: debian-12, python: "3.11"}\n' + LOGINS[field].format(
        url=url
    )
    (tmp_path / "d.yml").write_text(text)
    with pytest.raises(InputError) as met:
        definition.load(tmp_path / "d.yml")
    assert "geheim" not in str(met.value) and "heim" not in str(met.value) and f".{field}" in met.value.what


# -- numbers, names and places ----------------------------------------------------------------
COMMANDS: list[tuple[str, int, str]] = [
    ("keys init --keys {t}/new --days 1000000000 --passphrase-file {t}/pw", 2, "36500"),
    ("keys init --keys {t}/new --root-keys 1000000000 --passphrase-file {t}/pw", 2, "is not possible"),
    ("keys init --keys {t}/file/x --passphrase-file {t}/pw", 2, "{t}/file/x: cannot"),
    ("keys init --keys {t}/file --passphrase-file {t}/pw", 2, "{t}/file: cannot"),
    ("keys new a --in {t}/file --passphrase-file {t}/pw", 2, "{t}/file: cannot"),
    ("keys new ../../x --in {t} --passphrase-file {t}/pw", 2, "is not a name for a key"),
    ("keys new a --in {t} --passphrase-file {t}/binary", 2, "the passphrase file is not text"),
    ("keys new a --in {t} --passphrase-file {t}", 2, "a directory, not a regular file"),
    ("certs init --dir {t}/ca --passphrase-file {t}/pw --name " + "x" * 100, 2, "1 to 64"),
    ("certs client a --out {t}/c --days 1000000000 --dir {t}/ca --passphrase-file {t}/pw", 2, "825"),
    ("site new {t}/file", 2, "there is something already"),
    ("site new {t}/file/x", 2, "{t}/file/x: cannot write"),
    ("site check -i {t}/empty", 2, "{t}/empty/hosts.yml: there is no file with hosts"),
    ("site check -i /dev/zero", 2, "a device"),
    ("lock {t}/pipe", 2, "a pipe"),
    ("lock /dev/zero", 2, "a device"),
    ("lock {t}/empty", 2, "a directory"),
    ("depot remove ../../x --depot {t}/empty", 2, "has no release"),
    ("page {t}/nowhere --out {t}/made/p.html --root {t}/root.json", 2, "{t}/made: there is no such directory"),
    ("depot list --depot {t}/nowhere", 2, "{t}/nowhere: there is no such depot"),
    ("depot list --depot {t}/file", 2, "{t}/file: this is a file, not a depot"),
    ("depot gc --depot {t}/nowhere", 2, "{t}/nowhere: there is no such depot"),
    (
        "certs client a --out {t}/c --dir {t}/ca --passphrase-file {t}/short",
        2,
        "this is not the passphrase for the certificate authority in",
    ),
    (
        "keys init --keys {t}/new --passphrase-file {t}/short",
        2,
        "the passphrase for the signing keys is shorter than 12 characters",
    ),
]


@pytest.mark.parametrize(("line", "code", "words"), COMMANDS, ids=[c[0][:40] for c in COMMANDS])
def test_a_command_line_that_cannot_work_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, code: int, words: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    pipe(tmp_path / "pipe")
    binary(tmp_path / "binary")
    (tmp_path / "pw").write_text(PASSPHRASE)
    (tmp_path / "short").write_text("short")
    for name in ("pw", "binary", "short"):
        (tmp_path / name).chmod(0o600)
    before = sorted(tmp_path.rglob("*"))
    told = said(capsys, *line.format(t=tmp_path).split(), code=code)
    assert words.format(t=tmp_path) in told
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("met", "given"),
    [
        ("/m/.site.0a1b2c3d.tmp/hosts.yml", "/m/site/hosts.yml"), ("/m/.keys.making/targets.pem", "/m/keys/targets.pem"),
        ("/m/.appliance-a_b1c2d3", "/m"), ("/m/out/.0a1b2c3d.tmp", "/m/out"), ("/m/.ours-1.0.0.building/content/a", "/m/ours-1.0.0/content/a"),
        ("/m/.hidden/a.tmp", "/m/.hidden/a.tmp"), ("relative/file", "relative/file"), ("/", "/"),
    ],
)  # fmt: skip
def test_a_message_names_the_place_that_was_given(met: str, given: str) -> None:
    assert refusals.as_given(met) == given


@contextmanager
def full(monkeypatch: pytest.MonkeyPatch, after: int, number: int = errno.ENOSPC) -> Iterator[None]:
    """A disk that takes so many more files."""
    honest, left = os.open, [after]

    def limited(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(number, os.strerror(number), str(path))
        return honest(path, flags, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", limited)
        yield


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("after", range(4))
def test_no_half_of_a_key_is_left_on_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int, number: int
) -> None:
    with full(monkeypatch, after, number), pytest.raises(ResourceError) as met:
        signer.new_file(tmp_path / "keys", "a", PASSPHRASE) if after < 2 else KeyStore(tmp_path / "store").create(
            PASSPHRASE, root_keys=1, threshold=1, days=10, now=NOW
        )
    assert met.value.exit_code == Exit.RESOURCE and ".making" not in met.value.where and ".tmp" not in met.value.where
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
    signer.new_file(tmp_path / "keys", "a", PASSPHRASE)  # with space again, the same command works


def test_the_name_of_an_authority_is_refused_before_a_key_is_made(tmp_path: Path) -> None:
    for name in ("", "x" * 65, "a\nb"):
        with pytest.raises(InputError, match="the name of an authority"):
            Authority(tmp_path / "ca").create(name, PASSPHRASE, now=utc_now())
    assert not (tmp_path / "ca").exists()


def test_sources_of_apt_in_another_encoding_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_bytes(b"# caf\xe9\ndeb http://h/debian bookworm main\n")
    assert aptmirror.stanzas(tmp_path)[0]["Uris"] == "http://h/debian"


LICENCES = {
    "MIT": "", "Apache-2.0 OR MIT": "", "LicenseRef-Ours": "", "apache-2.0": "", "": "", "Apache-2.0 WITH LLVM-exception": "", "Apach-2.0": "Apache-2.0",
    "MIT License": "did you mean MIT", "foo": "LicenseRef-NAME", "MIT OR": "not an SPDX expression", "(" * 500: "not an SPDX", "M" * 5000: "not an SPDX",
}  # fmt: skip


@pytest.mark.parametrize("licence", LICENCES, ids=lambda w: w[:20])
def test_a_licence_is_an_spdx_expression(tmp_path: Path, licence: str) -> None:
    text = DEFINITION.format(url="file:a", sha256="a" * 64).replace("profiles:", f'licence: "{licence}", profiles:')
    (tmp_path / "d.yml").write_text(text)
    if not LICENCES[licence]:
        assert definition.load(tmp_path / "d.yml").files[0].licence == licence
        return
    with pytest.raises(InputError, match=LICENCES[licence]) as met:
        definition.load(tmp_path / "d.yml")
    assert f"{tmp_path / 'd.yml'}:6: files.0.licence: " in met.value.what
