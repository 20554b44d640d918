"""What takes too long ends, and nobody else's alarm is lost."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from loongforge_core.data.time_limit import time_limit


def test_a_loop_without_end_ends() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError, match=r"it takes more than 0\.05 seconds"), time_limit(0.05):
        while True:
            pass
    assert signal.getsignal(signal.SIGALRM) is before


def test_what_is_quick_is_left_alone() -> None:
    with time_limit(0.05):
        pass
    time.sleep(0.1)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_whoever_waited_before_waits_on() -> None:
    with pytest.raises(TimeoutError, match=r"0\.1 seconds"), time_limit(0.1):
        with time_limit(10.0):
            pass
        time.sleep(5)


def test_in_another_thread_there_is_no_limit() -> None:
    done = []

    def work() -> None:
        with time_limit(0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
