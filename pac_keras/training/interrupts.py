"""SIGTERM and Ctrl-C let a run end after the step, with a checkpoint."""

import contextlib
import signal
import threading


class Interrupted(Exception):
    """A run has ended as it was asked to; the message says how it is continued."""


@contextlib.contextmanager
def interrupts():
    """Context in which SIGTERM and SIGINT are noted in the list that it gives, as their names.

    The second one acts as it did before. Outside the main thread, where Python lets nobody handle
    signals, nothing is noted.
    """
    asked, before = [], {}

    def note(number, frame):
        asked.append(signal.Signals(number).name)
        print(f"{asked[-1]}: the run stops after this step; again to stop at once", flush=True)
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before = {one: signal.signal(one, note) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
