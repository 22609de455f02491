"""Tables on any screen: no value is ever cut or broken."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from installer.cli.screen import Screen
from installer.cli.tables import GAP, Table, fitting

SERIAL = "7f3a9c51d2e84b6f0a1c9d8e7b6a5f4e3d2c1b0a"
DIGEST = "sha256:" + "0123456789abcdef" * 4
WORDS = st.text(alphabet="abcdefgh0123.-/ ", min_size=0, max_size=60).map(lambda s: " ".join(s.split()))


def shown(table: Table, width: int, *, terminal: bool) -> list[str]:
    """What a console of this width prints."""
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, color_system=None, soft_wrap=True, highlight=False, markup=False
    )
    console.print(table)
    return out.getvalue().splitlines()


@pytest.fixture
def certificates() -> Table:
    table = Table("kind", "name", "days left", "serial", caption="two of them")
    table.add_row("client", "team-a", "90", SERIAL)
    table.add_row("node", "node-with-a-long-name.site-7.example.internal", "364", SERIAL[::-1])
    return table


def test_what_is_piped_has_one_whole_line_a_row_whatever_the_width(certificates: Table) -> None:
    lines = shown(certificates, 20, terminal=False)
    assert len(lines) == 4 and lines[-1] == "two of them"
    assert lines[1].split() == ["client", "team-a", "90", SERIAL]
    assert lines[2].split() == ["node", "node-with-a-long-name.site-7.example.internal", "364", SERIAL[::-1]]
    assert all(line == line.rstrip() for line in lines)


def test_a_screen_of_its_own_does_not_cut_what_is_piped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    table = Table("node", "what")
    table.add_row("n" * 50, DIGEST + " and more words than any line of thirty columns takes")
    Screen().result({}, table)
    out = capsys.readouterr().out
    assert out.splitlines()[1] == "n" * 50 + "  " + DIGEST + " and more words than any line of thirty columns takes"


def test_on_a_screen_that_is_too_narrow_for_columns_each_row_is_a_paragraph(certificates: Table) -> None:
    lines = shown(certificates, 80, terminal=True)
    assert lines[:4] == ["client", "  name: team-a", "  days left: 90", f"  serial: {SERIAL}"]
    assert "…" not in "".join(lines)


def test_words_wrap_beside_each_other_where_there_is_room() -> None:
    table = Table("node", "", "what", "remedy")
    table.add_row(
        "gpu-1",
        "fail",
        "the disk behind /var/lib/appliance has no room",
        "Free 12 GB, or name another disk in the site.",
    )
    lines = shown(table, 60, terminal=True)
    assert all(len(line) <= 60 for line in lines) and len(lines) > 2
    told = " ".join(" ".join(lines).split())
    assert "gpu-1" in told and "/var/lib/appliance" in told and lines[1].startswith("gpu-1  fail  ")


def test_a_cell_without_a_header_follows_the_first_one_in_a_paragraph() -> None:
    table = Table("node", "", "release")
    table.add_row("gpu-1", "ok", DIGEST)
    assert table.lines(40) == ["gpu-1  ok", f"  release: {DIGEST}"]


def test_a_row_with_too_many_cells_is_refused_and_missing_ones_are_empty() -> None:
    table = Table("a", "b")
    table.add_row("1")
    table.add_row()
    assert table.rows == [("1", ""), ("", "")]
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        table.add_row("1", "2", "3")


def test_a_name_steers_no_terminal() -> None:
    table = Table("node")
    table.add_row("a\x1b[2J\rgood")
    assert table.lines() == ["node", "a\\x1b[2J\\rgood"]


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=6), st.integers(10, 140))
def test_every_word_is_whole_at_every_width(rows: list[tuple[str, str, str]], width: int) -> None:
    table = Table("one", "two", "three")
    for row in rows:
        table.add_row(*row)
    lines = table.lines(width)
    said = " ".join(lines).split()
    assert all(word in said for row in rows for cell in row for word in cell.split())
    if lines[0].startswith("one"):
        assert all(len(line) <= width for line in lines)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=8), st.integers(0, 200))
def test_widths_take_the_room_and_no_more(columns: list[tuple[int, int]], room: int) -> None:
    least, naturals = [a for a, _ in columns], [a + b for a, b in columns]
    widths = fitting(naturals, least, room)
    if sum(least) > room:
        assert widths == []
    else:
        assert all(low <= w <= natural for low, w, natural in zip(least, widths, naturals, strict=True))
        assert sum(widths) == min(room, sum(naturals))
        assert GAP > 0
