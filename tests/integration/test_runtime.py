"""Images made by the real tools from small real wheels: the same twice, relocatable, audited."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.blobs import Blobs, hash_file
from engine.errors import TrustError
from installer.definition import Target
from installer.lockfile import Artifact
from installer.runtime import audit, image, tree
from installer.runtime.recipe import Recipe
from tests.integration.wheelsite import wheel

TARGET = Target(os="debian-12", python="3.12")  # not the builder's: nothing of this interpreter may get in


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Two wheels: one with a script and a data file, one that is plain."""
    cache = Blobs(tmp_path / "cache")
    folder = tmp_path / "wheels"
    made = [
        wheel(
            folder, "tool", "1.0",
            files={
                "tool/__init__.py": "def main():\n    print('tool runs')\n",
                "tool-1.0.dist-info/entry_points.txt": "[console_scripts]\ntool = tool:main\n",
                "tool-1.0.data/scripts/old-tool": "#!python\nimport tool\ntool.main()\n",
                "tool-1.0.data/data/share/tool/words": "words\n",
            },
        ),
        wheel(folder, "plain", "2.0"),
    ]  # fmt: skip
    artifacts = []
    for path in made:
        copy = tmp_path / "adopted"
        shutil.copy(path, copy)
        cache.root.mkdir(exist_ok=True)
        sha256, size = cache.keep(copy)
        name, version, *_ = path.name.split("-")
        artifacts.append(
            Artifact(path=f"wheels/small/{path.name}", kind="wheels", group="small", name=name, version=version,
                     size=size, sha256=sha256, source="file:x", profiles=("gpu",))
        )  # fmt: skip
    return Recipe("small", TARGET, tuple(artifacts), (), ("gpu",))


def test_the_same_recipe_gives_the_same_bytes_in_another_place_and_mode(recipe: Recipe, tmp_path: Path) -> None:
    first = image.make(recipe, Blobs(tmp_path / "cache"))
    elsewhere = Blobs(tmp_path / "another place" / "cache")
    shutil.copytree(tmp_path / "cache" / "sha256", elsewhere.root / "sha256")
    elsewhere.path(first.sha256).unlink()
    before = os.umask(0o077)
    try:
        second = image.make(recipe, elsewhere)
    finally:
        os.umask(before)
    assert (first.sha256, first.size) == (second.sha256, second.size)
    assert hash_file(elsewhere.path(second.sha256)) == (second.sha256, second.size)
    assert image.make(recipe, elsewhere) == second  # from the note; nothing is made again
    assert not list((tmp_path / "another place" / "cache").glob("runtime-*"))


def test_scripts_run_wherever_the_tree_lies_and_name_no_path_of_the_builder(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    made = tree.build(recipe, Blobs(tmp_path / "cache"), tmp_path / "scratch")
    moved = tmp_path / "mounted here" / "runtime"
    moved.parent.mkdir()
    made.rename(moved)
    # The target's interpreter is not on this machine; this one stands in for it.
    (moved / "bin" / "python").unlink()
    (moved / "bin" / "python").symlink_to(shutil.which("python3", path="/usr/bin") or "")
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(moved / "lib/python3.12/site-packages"),
    }
    for script in ("tool", "old-tool"):
        done = subprocess.run([moved / "bin" / script], capture_output=True, text=True, env=environment, check=True)
        assert done.stdout == "tool runs\n"
    assert (moved / "share/tool/words").read_text() == "words\n"
    texts = b"".join(p.read_bytes() for p in moved.rglob("*") if p.is_file() and not p.is_symlink())
    assert str(tmp_path).encode() not in texts
    assert b".venv" not in texts
    assert not list(moved.rglob("uv_cache.json"))


def test_an_audit_tells_a_good_image_from_one_with_something_added(recipe: Recipe, tmp_path: Path) -> None:
    cache = Blobs(tmp_path / "cache")
    made = image.make(recipe, cache)
    good = audit.audit(recipe, cache.path(made.sha256), cache, tmp_path)
    assert good.good
    assert good.files > 10
    changed = tmp_path / "changed"
    subprocess.run(
        ["unsquashfs", "-quiet", "-no-progress", "-dest", changed, cache.path(made.sha256)],
        check=True,
        capture_output=True,
    )
    module = changed / "lib/python3.12/site-packages/plain/__init__.py"
    module.write_text(module.read_text() + "import os\n")
    (changed / "lib/python3.12/site-packages/evil.pth").write_text("import os\n")
    image.squash(changed, tmp_path / "changed.squashfs")
    bad = audit.audit(recipe, tmp_path / "changed.squashfs", cache, tmp_path)
    assert {d.path for d in bad.differences} == {
        "lib/python3.12/site-packages/plain/__init__.py", "lib/python3.12/site-packages/evil.pth",
    }  # fmt: skip


def test_what_is_no_image_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"hsqs" + b"\xff" * 5000)
    with pytest.raises(TrustError, match="not a readable image"):
        audit.audit(recipe, tmp_path / "noise", Blobs(tmp_path / "cache"), tmp_path)
