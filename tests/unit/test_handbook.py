"""The blocks of a document are found with the host that runs them, and a host keeps a shell's state between blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.handbook import Host, blocks, substituted

TEXT = """# Title

```
not for any host
```

**Once, on the builder:**

```
one
two
```

Words between, and in them
**bold ones** that name nobody.

```
three
```

**A client:**

```python
print(1)
```

## Next

```
nobody's
```
"""


def test_a_block_belongs_to_the_host_that_the_bold_words_name() -> None:
    found = [(b.host, b.lead, b.language, b.text, b.line) for b in blocks(TEXT)]
    assert found == [
        ("builder", "Once, on the builder", "", "one\ntwo\n", 9),
        ("builder", "Once, on the builder", "", "three\n", 17),
        ("client", "A client", "python", "print(1)\n", 23),
    ]


def test_a_block_without_an_end_is_told() -> None:
    with pytest.raises(ValueError, match="line 3"):
        blocks("**builder**\n\n```\nx\n")


def test_longer_keys_of_the_table_come_first() -> None:
    assert substituted("a.b a", {"a": "1", "a.b": "2"}) == "2 1"


def test_directory_and_variables_pass_to_the_next_block_and_a_failure_is_told(tmp_path: Path) -> None:
    host = Host(
        "here",
        ["env", "-i", f"HOME={tmp_path}", "PATH=/usr/bin:/bin", "bash", "-c"],
        str(tmp_path / "state"),
        tmp_path / "log",
    )
    host.run("mkdir below && cd below\nexport X='a b'")
    assert host.run('echo "$PWD $X"') == f"{tmp_path}/below a b\n"
    with pytest.raises(AssertionError, match="ended with 1"):
        host.run("false\necho not reached")
    assert "not reached" not in host.run("exit 3", ok=False)
    log = (tmp_path / "log").read_text()
    assert "$ false" in log and "exit code 3" in log
