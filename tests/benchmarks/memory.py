"""The memory of one process that answers requests, told as it goes: a line each, name and megabytes."""

from __future__ import annotations

import gc
import pathlib
import tempfile

import in_process


def resident() -> float:
    """Megabytes that this process has to itself or shares (VmRSS)."""
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return int(next(line for line in lines if line.startswith('VmRSS')).split()[1]) / 1024


def main(requests: int) -> None:
    """A tenth of the requests attach and detach, the rest list and show."""
    with tempfile.TemporaryDirectory() as folder:
        call = in_process.ours(pathlib.Path(folder) / 'osif', 1)
        operations = [in_process.lister(call), in_process.shower(call)] * 4 + [in_process.cycler(call)]
        done = 0
        for share in (0.01, 0.1, 0.5, 1.0):
            while done < share * requests:
                for operation in operations:
                    operation()
                done += len(operations) + 1
            gc.collect()
            print(f'resident after {done} requests\t{resident():.2f}')
