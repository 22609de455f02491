"""What the system refuses is said in a sentence; what is the program's own fault is not hidden behind one."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine import refusals
from engine.durable import copy_tree, disk_errors, require_writable, write
from engine.errors import Exit, InputError, ResourceError
from installer.cli import ending
from installer.cli.screen import Screen


def refusal(number: int, path: str | None = "/media/drive/bundle") -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, ResourceError), (errno.EDQUOT, ResourceError), (errno.EROFS, ResourceError), (errno.EACCES, ResourceError),
        (errno.EMFILE, ResourceError), (errno.EIO, ResourceError), (errno.ENOENT, InputError), (errno.ENOTDIR, InputError),
        (errno.EISDIR, InputError), (errno.ELOOP, InputError), (errno.ENAMETOOLONG, InputError), (errno.EEXIST, InputError),
    ],
)  # fmt: skip
def test_a_refusal_names_its_place_and_a_remedy(number: int, kind: type[Exception]) -> None:
    found = refusals.explained(refusal(number))
    assert type(found) is kind
    assert found.where == "/media/drive/bundle" and found.what and found.remedy.endswith(".")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE, errno.ENOMEM])
def test_what_this_machine_does_not_have_needs_no_path(number: int) -> None:
    assert isinstance(refusals.explained(refusal(number, None)), ResourceError)


@pytest.mark.parametrize(
    "error",
    [refusal(errno.ENOENT, None), refusal(errno.EBADF), refusal(errno.EINVAL), refusal(errno.EXDEV), ValueError("x"), RuntimeError("x")],
)  # fmt: skip
def test_a_fault_of_the_program_stays_one(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusals.explained(error) is None
    monkeypatch.delenv("APPLIANCE_DEBUG", raising=False)

    def command() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        ending.run(Screen(), command)
    assert ended.value.code == Exit.FAILED and "internal error" in capsys.readouterr().err


def test_a_circle_of_links_is_a_wrong_path(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises((RuntimeError, OSError)) as raised:
        (tmp_path / "loop").resolve(strict=True)
    found = refusals.explained(raised.value)
    assert isinstance(found, InputError) and found.where == str(tmp_path / "loop")


def test_a_temporary_name_is_not_shown() -> None:
    with pytest.raises(ResourceError) as raised, disk_errors(Path("/media/root.json")):
        raise refusal(errno.ENOSPC, "/media/.root.json.0a1b2c3d.tmp")
    assert raised.value.where == "/media/root.json"


def test_a_file_in_place_of_a_directory_is_told_by_the_name_that_was_given(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    with pytest.raises(OSError) as met:  # in the kernel's own words
        write(tmp_path / "page", "text")
    found = refusals.explained(met.value)
    assert isinstance(found, InputError)
    assert found.where == str(tmp_path / "page")
    assert "this is a directory" in found.remedy
    assert list(tmp_path.iterdir()) == [tmp_path / "page"]


def test_a_directory_is_copied_whole_or_not_at_all(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "deep/file").write_text("x")
    copy_tree(source, tmp_path / "copy")
    assert (tmp_path / "copy/deep/file").read_text() == "x"
    (source / "unreadable").symlink_to("/proc/self/mem")  # a file that cannot be read from its beginning
    with pytest.raises(ResourceError, match="the device reports an error"):
        copy_tree(source, tmp_path / "second")
    assert {p.name for p in tmp_path.iterdir()} == {"source", "copy"}


def test_a_place_is_tried_without_a_trace(tmp_path: Path) -> None:
    require_writable(tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        require_writable(tmp_path / "file" / "below")
