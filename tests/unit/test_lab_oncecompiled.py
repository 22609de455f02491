"""What Ansible brings to a lab node is compiled once, a changed source again, and of others nothing is kept."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from installer.lab.rootfs import ONCE_COMPILED

# Says what the module is, from where it came, and how often Python's own compiler was asked.
PROGRAM = """
import runpy, sys, zipimport
asked, own = [], zipimport._compile_source
zipimport._compile_source = lambda path, source: asked.append(path) or own(path, source)
os = __import__("os")
os.geteuid = lambda: 0
ours = compile(open(sys.argv[1]).read().replace("/run/appliance-lab-compiled", sys.argv[2]), "ours", "exec")
exec(ours, {})
sys.path.insert(0, sys.argv[3])
told = __import__(sys.argv[4] + ".told").told
print(told.WORD, told.__file__ == sys.argv[3] + f"/{sys.argv[4]}/told.py", len(asked))
"""


def told(place: Path, word: str, package: str = "ansible") -> str:
    archive = place / f"{word}.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr(f"{package}/", "")  # without it there is no such package
        made.writestr(f"{package}/told.py", f"WORD = {word!r}\n")
    argv = [sys.executable, "-S", "-c", PROGRAM, str(ONCE_COMPILED), str(place / "kept"), str(archive), package]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def test_a_source_is_compiled_once_and_another_one_again(tmp_path: Path) -> None:
    assert told(tmp_path, "one") == "one True 1\n"
    assert told(tmp_path, "one") == "one True 0\n"
    assert told(tmp_path, "two") == "two True 1\n"
    kept = list((tmp_path / "kept").iterdir())
    assert len(kept) == 2
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700


def test_of_what_is_not_ansible_s_nothing_is_kept(tmp_path: Path) -> None:
    said = told(tmp_path, "one", "ours")
    assert said not in ("one True 0\n", "")
    assert told(tmp_path, "one", "ours") == said
    assert not (tmp_path / "kept").exists()


def test_what_cannot_be_read_is_compiled(tmp_path: Path) -> None:
    told(tmp_path, "one")
    (kept,) = (tmp_path / "kept").iterdir()
    for broken in (b"", b"\xe3\x00", b"\xff" * 64):
        kept.write_bytes(broken)
        assert told(tmp_path, "one") == "one True 1\n"
