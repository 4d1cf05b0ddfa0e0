"""A process that outlives a supervisor killed hard, for just long enough to end what it left behind.

It reads `watch PGID` and `forget PGID` lines. When the pipe closes (whatever ended the supervisor) it ends
the process groups still watched: asked first, killed after a while. It is run as a file, without our package,
so that it costs little: the standard library only.
"""

import os
import signal
import sys
import time

GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.05


def group_is_alive(group: int) -> bool:
    """Whether a process of this group still runs. Zombies do not count: nobody may ever collect them."""
    try:
        processes = [entry for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208 (start-up time)
    except OSError:
        return _answers_to_signals(group)
    return any(_belongs_to(process, group) for process in processes)


def _answers_to_signals(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _belongs_to(process: str, group: int) -> bool:
    try:
        with open(f"/proc/{process}/stat", "rb") as file:  # noqa: PTH123 (start-up time)
            state, _parent, its_group = file.read().rpartition(b")")[2].split()[:3]
    except OSError:
        return False
    return int(its_group) == group and state not in {b"Z", b"X"}


def signal_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return  # gone, or taken over by somebody else: nothing of ours is left there


def end_groups(groups: list[int], grace_seconds: float = GRACE_SECONDS) -> list[int]:
    """Asks every group to end, kills those that do not, and returns the killed."""
    for group in groups:
        signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    left = [group for group in groups if group_is_alive(group)]
    while left and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        left = [group for group in left if group_is_alive(group)]
    for group in left:
        signal_group(group, signal.SIGKILL)
    return left


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: list[int] = []
    for line in sys.stdin:
        word, _, group = line.partition(" ")
        if word == "watch":
            watched.append(int(group))
        elif word == "forget" and int(group) in watched:
            watched.remove(int(group))
    end_groups(watched)


if __name__ == "__main__":
    main()
