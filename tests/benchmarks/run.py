"""What the plug-in costs, as ratios, each pair measured in turn in one run.

    python tests/benchmarks/run.py [in-process] [http] [scale] [neutron] [--rounds N] [--json] [--profile]

Only the ratios mean anything: both sides move with the machine. ``--profile`` tells where the time of our side
goes instead. Beside Nova's own code: ``nova.py``.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Iterator

import harness
import in_process
import over_http
import scale

PARTS = ('in-process', 'http', 'scale', 'neutron')


def results(options: argparse.Namespace, folder: pathlib.Path) -> Iterator[harness.Result | harness.Figure]:
    """Everything that was asked for, as it comes."""
    for part in options.parts or PARTS:
        for case in _cases(part, options, folder):
            if options.profile:
                harness.profile(case, options.rounds)
            else:
                yield harness.measure(case, options.rounds)
        if options.profile:
            continue
        if part == 'http':
            yield from over_http.figures(folder, options.seconds)
        elif part == 'scale':
            yield from scale.figures(options.requests)


def _cases(part: str, options: argparse.Namespace, folder: pathlib.Path) -> Iterator[harness.Case]:
    if part == 'in-process':
        return in_process.cases(folder)
    if part == 'http':
        return over_http.cases(folder)
    if part == 'scale':
        return scale.cases(folder, options.records)
    # Its client libraries take their time.
    import neutron

    return neutron.cases(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', choices=[[], *PARTS], help='what to measure; all of it by default')
    parser.add_argument('--rounds', type=int, default=500, help='measurements of each case on each side')
    parser.add_argument('--records', type=int, default=1_000_000, help='of the large table')
    parser.add_argument('--requests', type=int, default=100_000, help='that a process answers while it is watched')
    parser.add_argument('--seconds', type=float, default=3.0, help='for which several clients ask')
    parser.add_argument('--json', action='store_true', help='a line of JSON for each result')
    parser.add_argument('--profile', action='store_true', help='where the time goes')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        harness.show(results(options, pathlib.Path(folder)), as_json=options.json)


if __name__ == '__main__':
    main()
