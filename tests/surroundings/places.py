"""Surroundings: what a machine, a shell or a slip of the operator does to a command."""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.surroundings import process
from tests.surroundings.commands import CALLS, Call
from tests.surroundings.process import ELSEWHERE, Case, mount, read_only
from tests.surroundings.world import environment

NOBODY = 65534
LARGE = ("cache", "depot-of-bundle")  # copied for no surrounding: 100 MB each
Do = Callable[[Path], object]


@dataclass(frozen=True)
class Surrounding:
    """What a command finds.

    Attributes:
        same: it changes nothing about the outcome: the command ends as it does where nothing is amiss.
        heard: what it says can be read.
        needed_by: commands that may end otherwise all the same, because they need what the surrounding takes away.
        words: words of the command in their place, for surroundings that replace a place; several give several cases.
    """

    name: str
    same: bool = False
    heard: bool = True
    prepare: Do = lambda _world: None
    enter: Do = lambda _world: None
    variables: dict[str, str | None] = field(default_factory=dict)
    needed_by: tuple[str, ...] = ()
    words: Callable[[Call, Path], Iterator[dict[str, str]]] = lambda _call, _world: iter([{}])

    def cases(self, world: Path) -> Iterator[Case]:
        """Every command in this surrounding."""
        variables = {k: v.replace("WORLD", str(world)) if v is not None else v for k, v in self.variables.items()}
        settled = {k: v for k, v in {**environment(world), **variables}.items() if v is not None}
        for name, call in CALLS.items():
            for instead in self.words(call, world):
                yield Case(
                    name, call.argv(world, instead), world, environment=settled,
                    prepare=lambda: self.prepare(world), enter=lambda: self.enter(world),
                )  # fmt: skip


# -- the process ------------------------------------------------------------------------------------
def _closed(*numbers: int) -> Do:
    def enter(_world: Path) -> None:
        for number in numbers:
            os.close(number)

    return enter


def _stdout(path: str) -> Do:
    return lambda _world: os.dup2(os.open(path, os.O_WRONLY), 1)


def _broken_pipe(_world: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def _deleted_directory(_world: Path) -> None:
    place = Path(tempfile.mkdtemp())
    os.chdir(place)
    place.rmdir()


def _limit(which: int, number: int) -> Do:
    return lambda _world: resource.setrlimit(which, (number, number))


def _become_nobody(_world: Path) -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def _no_name(_world: Path) -> None:
    """A user that no list of users names, as in containers."""
    os.setgroups([])
    os.setgid(54321)
    os.setuid(54321)


def _encoding(name: str) -> Do:
    """Standard streams as Python makes them under a locale with this encoding."""
    return lambda _world: setattr(process, "STREAMS", name)


def _in(where: str) -> Do:
    return lambda world: os.chdir(world / where)


def _read_only(where: str) -> Do:
    return lambda world: read_only(world / where)


PROCESS = (
    Surrounding("ordinary", same=True),
    Surrounding("current directory deleted", same=True, enter=_deleted_directory),
    Surrounding("current directory read-only", same=True, prepare=_read_only("elsewhere"), enter=_in("elsewhere")),
    Surrounding("stdin closed", same=True, enter=_closed(0)),
    Surrounding("stdout closed", same=True, heard=False, enter=_closed(1)),
    Surrounding("stderr closed", same=True, heard=False, enter=_closed(2)),
    Surrounding("all streams closed", same=True, heard=False, enter=_closed(0, 1, 2)),
    Surrounding("stdout is a broken pipe", heard=False, enter=_broken_pipe),
    Surrounding("stdout is full", enter=_stdout("/dev/full")),
    Surrounding("no HOME", same=True, variables={"HOME": None}),
    Surrounding("no HOME and no user", heard=True, variables={"HOME": None}, enter=_no_name),
    Surrounding("HOME is not there", same=True, variables={"HOME": "/nonexistent/home"}),
    Surrounding("HOME is empty", same=True, variables={"HOME": ""}),
    Surrounding("HOME is read-only", same=True, prepare=_read_only("elsewhere"), variables={"HOME": "WORLD/elsewhere"}, needed_by=("lock",)),
    Surrounding("XDG directories are files", same=True, variables={"XDG_CONFIG_HOME": "/etc/passwd", "XDG_CACHE_HOME": "/etc/passwd"}, needed_by=("lock",)),
    Surrounding("XDG directories are relative", same=True, variables={"XDG_CONFIG_HOME": "x", "XDG_CACHE_HOME": "~"}),
    Surrounding("no TERM", same=True, variables={"TERM": None}),
    Surrounding("dumb terminal", same=True, variables={"TERM": "dumb"}),
    Surrounding("40 columns", same=True, variables={"COLUMNS": "40"}),
    Surrounding("1 column", same=True, variables={"COLUMNS": "1"}),
    Surrounding("COLUMNS is not a number", same=True, variables={"COLUMNS": "wide", "LINES": "-1"}),
    Surrounding("latin-1", same=True, enter=_encoding("iso8859-1"), variables={"LC_ALL": "de_DE.ISO-8859-1"}),
    Surrounding("ascii", same=True, enter=_encoding("ascii"), variables={"LC_ALL": "C"}),
    Surrounding("a locale that is not there", same=True, variables={"LC_ALL": "de_DE.UTF-8"}),
    Surrounding("TMPDIR is not there", same=True, variables={"TMPDIR": "/nonexistent/tmp"}),
    Surrounding("TMPDIR is read-only", same=True, prepare=_read_only("elsewhere"), variables={"TMPDIR": "WORLD/elsewhere"}),
    Surrounding("TMPDIR is full", prepare=lambda world: _full(world / ELSEWHERE), variables={"TMPDIR": "WORLD/elsewhere"}),
    Surrounding("no tools", variables={"PATH": "/nonexistent"}),
    Surrounding("12 open files", enter=_limit(resource.RLIMIT_NOFILE, 12)),
    Surrounding("5 open files", enter=_limit(resource.RLIMIT_NOFILE, 5)),
    Surrounding("umask 077", same=True, enter=lambda _world: os.umask(0o077)),
    Surrounding("umask 0", same=True, enter=lambda _world: os.umask(0)),
    Surrounding("another user", enter=_become_nobody),
)  # fmt: skip


# -- where results go -------------------------------------------------------------------------------
def _full(directory: Path) -> None:
    """A file system without a free byte, and without room for one more name."""
    mount("tmpfs", directory, "tmpfs", options="size=4k,nr_inodes=3")
    (directory / "hog").write_bytes(bytes(4096))


def _nearly_full(directory: Path) -> None:
    mount("tmpfs", directory, "tmpfs", options="size=24k")


def _outputs(place: Callable[[Path, str], str]) -> Callable[[Call, Path], Iterator[dict[str, str]]]:
    """Each result of a command at another place."""

    def words(call: Call, world: Path) -> Iterator[dict[str, str]]:
        for word in call.places(">"):
            yield {word: place(world, word[1:])}

    return words


def _blocked(make: Do) -> Do:
    """Something in the way at the place of every result."""

    def prepare(world: Path) -> None:
        for call in CALLS.values():
            for word in call.places(">"):
                make(world / word[1:])

    return prepare


def _below(world: Path, name: str) -> str:
    return str(world / ELSEWHERE / name)


RESULTS = (
    Surrounding("read-only place", prepare=_read_only("elsewhere"), words=_outputs(_below)),
    Surrounding("full place", prepare=lambda world: _full(world / ELSEWHERE), words=_outputs(_below)),
    Surrounding("nearly full place", prepare=lambda world: _nearly_full(world / ELSEWHERE), words=_outputs(_below)),
    Surrounding("another file system", same=True, prepare=lambda world: mount("tmpfs", world / ELSEWHERE, "tmpfs"), words=_outputs(_below)),
    Surrounding("a relative path", same=True, enter=_in("elsewhere"), words=_outputs(lambda _w, name: f"./deep/{name}")),
    Surrounding("a name alone", same=True, enter=_in("elsewhere"), words=_outputs(lambda _w, name: name)),
    Surrounding("below a file", words=_outputs(lambda world, name: str(world / "passphrase" / name))),
    Surrounding("a name that is too long", words=_outputs(lambda world, name: str(world / ELSEWHERE / (name + "x" * 250)))),
    Surrounding("a path that is too long", words=_outputs(lambda world, name: str(world / ELSEWHERE / ("x/" * 2200) / name))),
    Surrounding("a name that is not UTF-8", same=True, words=_outputs(lambda world, name: str(world / ELSEWHERE / f"\udce4\udcf6{name}"))),
    Surrounding("below a loop of links", prepare=lambda world: (world / ELSEWHERE / "loop").symlink_to("loop"), words=_outputs(lambda world, name: str(world / ELSEWHERE / "loop" / name))),
    Surrounding("a link to nothing", prepare=_blocked(lambda path: path.symlink_to("/nonexistent/place")), words=_outputs(lambda world, name: str(world / name))),
    Surrounding("a file in the way", prepare=_blocked(lambda path: path.write_text("mine")), words=_outputs(lambda world, name: str(world / name))),
    Surrounding("a directory in the way", prepare=_blocked(lambda path: (path / "mine").mkdir(parents=True)), words=_outputs(lambda world, name: str(world / name))),
)  # fmt: skip


# -- what is read, and what is changed --------------------------------------------------------------
def _operands(
    place: Callable[[Path, Path], str], sorts: str = "<+"
) -> Callable[[Call, Path], Iterator[dict[str, str]]]:
    """Each operand of a command, one at a time, replaced by what ``place`` says for it."""

    def words(call: Call, world: Path) -> Iterator[dict[str, str]]:
        for word in dict.fromkeys(call.places(sorts)):
            yield {word: place(world, world / word[1:])}

    return words


def _other_sort(world: Path, path: Path) -> str:
    """A file where a directory is wanted, and the other way round."""
    return str(world / "passphrase" if path.is_dir() else world / "people")


def _changed_places(make: Do) -> Do:
    """Every place that commands change in place becomes another sort of place."""

    def prepare(world: Path) -> None:
        for place in dict.fromkeys(w[1:] for call in CALLS.values() for w in call.places("+")):
            if place not in LARGE:
                make(world / place)

    return prepare


def _fill(directory: Path) -> None:
    """The same files on a file system without room."""
    size = sum(-(-p.lstat().st_size // 4096) + 1 for p in directory.rglob("*")) * 4096
    beside = directory.with_name(f".{directory.name}.was")
    beside.mkdir()
    mount(str(directory), beside, flags=process.MS_BIND)
    mount("tmpfs", directory, "tmpfs", options=f"size={size + 4096},mode=0755")
    os.system(f"cp -a {beside}/. {directory} && head -c {size * 2} /dev/zero > {directory}/.hog 2>/dev/null")  # noqa: S605


def _bind_all(world: Path) -> None:
    """The whole world once more, below a name that is not UTF-8."""
    strange = world / ELSEWHERE / "\udcff"
    strange.mkdir()
    mount(str(world), strange, flags=process.MS_BIND)


OPERANDS = (
    Surrounding("not there", words=_operands(lambda _w, path: str(path) + ".not")),
    Surrounding("another sort of file", words=_operands(_other_sort)),
    Surrounding("a link that leads nowhere", prepare=lambda world: (world / ELSEWHERE / "nowhere").symlink_to("none"), words=_operands(lambda world, _p: str(world / ELSEWHERE / "nowhere"))),
    Surrounding("a loop of links", prepare=lambda world: (world / ELSEWHERE / "loop").symlink_to("loop"), words=_operands(lambda world, _p: str(world / ELSEWHERE / "loop"))),
    Surrounding("bytes that are not text", prepare=lambda world: (world / ELSEWHERE / "bytes").write_bytes(bytes(range(256)) * 9), words=_operands(lambda world, _p: str(world / ELSEWHERE / "bytes"))),
    Surrounding("an empty file", prepare=lambda world: (world / ELSEWHERE / "empty").touch(), words=_operands(lambda world, _p: str(world / ELSEWHERE / "empty"))),
    Surrounding("an empty directory", prepare=lambda world: (world / ELSEWHERE / "empty").mkdir(), words=_operands(lambda world, _p: str(world / ELSEWHERE / "empty"))),
    Surrounding("an endless file", enter=_limit(resource.RLIMIT_AS, 3 << 30), words=_operands(lambda _w, _p: "/dev/zero")),
    Surrounding("a name that is too long", words=_operands(lambda _w, path: str(path) + "x" * 250)),
    Surrounding("a relative path", same=True, enter=os.chdir, words=_operands(lambda world, path: str(path.relative_to(world)))),
    Surrounding("a name that is not UTF-8", same=True, prepare=_bind_all, words=_operands(lambda world, path: f"{world}/{ELSEWHERE}/\udcff/{path.relative_to(world)}")),
    Surrounding("read-only state", prepare=_changed_places(read_only)),
    Surrounding("full state", prepare=_changed_places(_fill)),
)  # fmt: skip
