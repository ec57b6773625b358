"""Ends processes when the one that started them is gone, whatever way it went.

Run as a script. Its standard input is a pipe that only the tests hold: ``+NUMBER`` and ``-NUMBER`` add and remove
a process group, any other line names a folder. At the end of the input what is left is killed and removed. (The
kernel's own means, PR_SET_PDEATHSIG, looks at the thread that started the process, and so would kill too early.)
"""

import contextlib
import os
import shutil
import signal
import sys
import time


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: list[int] = []
    folders: list[str] = []
    for line in sys.stdin:
        word = line.rstrip('\n')
        if word.startswith('+'):
            groups.append(int(word[1:]))
        elif word.startswith('-'):
            with contextlib.suppress(ValueError):
                groups.remove(int(word[1:]))
        else:
            folders.append(word)
    for group in reversed(groups):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    for folder in folders:
        # The killed may still be about to write.
        for _ in range(20):
            shutil.rmtree(folder, ignore_errors=True)
            if not os.path.exists(folder):
                break
            time.sleep(0.1)


if __name__ == '__main__':
    main()
