"""Who starts a long command with nohup wants it to outlive the terminal."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from engine.interruption import heeded
from installer.site.playbooks import interruptible


@pytest.fixture
def hangup() -> Iterator[None]:
    """Whatever a test does with the signal, it is as it was afterwards."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
def test_an_ignored_hangup_ends_neither_a_playbook_nor_a_command() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with heeded(), interruptible() as asked:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not asked()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.usefixtures("hangup")
def test_a_hangup_that_nobody_ignores_ends_both() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    with pytest.raises(KeyboardInterrupt), interruptible() as asked:
        os.kill(os.getpid(), signal.SIGHUP)
        assert asked()
    with pytest.raises(KeyboardInterrupt), heeded():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
