"""doc/write-a-driver.md, followed to the letter: its files and commands, in an empty directory."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.services import databases

pytestmark = pytest.mark.service

ROOT = pathlib.Path(__file__).parents[2]
PAGE = ROOT / 'doc' / 'write-a-driver.md'
NOT_COPIED = shutil.ignore_patterns('.*', '__pycache__', '*.egg-info', 'build', 'dist', '*.sqlite*', '*.pyc')

_BLOCK = re.compile(r'(?P<before>[^\n]+)\n\n```(?P<language>\w+)\n(?P<content>.*?)^```$', re.DOTALL | re.MULTILINE)
#: A file is named by the end of the paragraph before it.
_FILE = re.compile(r'`(?P<name>[\w.]+)`[^`]*:$')
#: Begins the paragraph before a command that goes on until it is ended.
_STAYS = ('In a terminal of its own', 'In another:')
#: What it says of itself, when it waits for somebody to call.
_PATIENCE = 60.0


@dataclasses.dataclass
class Step:
    """One command of the page, and how the lines of its output begin."""

    command: str
    shown: list[str]
    stays: bool


@dataclasses.dataclass
class Page:
    files: dict[str, str]
    steps: list[Step]


def read(text: str) -> Page:
    page = Page({}, [])
    blocks = list(_BLOCK.finditer(text))
    assert len(blocks) == text.count('```') // 2, 'each block has a paragraph before it'
    for block in blocks:
        if block['language'] == 'console':
            stays = block['before'].startswith(_STAYS)
            for line in block['content'].splitlines():
                if line.startswith('$ '):
                    page.steps.append(Step(line[2:], [], stays))
                else:
                    page.steps[-1].shown.append(line)
        else:
            name = _FILE.search(block['before'])
            assert name, f'no file is named before the block that begins {block["content"][:60]!r}'
            page.files[name['name']] = block['content']
    return page


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        with contextlib.suppress(OSError), socket.create_connection(('127.0.0.1', port), timeout=1):
            return
        assert process.poll() is None, f'{process.args!r} has ended'
        assert time.monotonic() < until, f'{process.args!r} does not listen at {port}'
        time.sleep(0.05)


@contextlib.contextmanager
def ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            process.wait(_PATIENCE)


def test_the_driver_is_short() -> None:
    assert len(read(PAGE.read_text()).files['osif_patchbay.py'].splitlines()) < 60


def test_followed_to_the_letter(tmp_path: pathlib.Path) -> None:
    """What is replaced: the name of this project by its source, and the ports by such as are free."""
    try:
        databases.need('curl', 'curl')
    except databases.Unobtainable as error:
        pytest.skip(str(error))
    source = shutil.copytree(ROOT, tmp_path / 'source', ignore=NOT_COPIED)
    where = tmp_path / 'empty'
    where.mkdir()
    text = PAGE.read_text()
    ports = {name: str(free_port()) for name in ('7373', '8774')}
    for name, port in ports.items():
        assert name in text
        text = text.replace(name, port)
    page = read(text)
    for name, content in page.files.items():
        (where / name).write_text(content)
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(('PYTHON', 'PYTEST', 'OS_')) and name != 'VIRTUAL_ENV'
    }
    staying: list[subprocess.Popen[bytes]] = []
    listening = iter(ports.values())
    ran = []
    with ended(staying):
        for step in page.steps:
            command = step.command.replace(' os-interface-ext pytest', f' {shlex.quote(str(source))} pytest')
            if step.stays:
                # In a session of its own, as in a terminal of its own.
                process = subprocess.Popen(
                    f'exec {command}',
                    shell=True,
                    cwd=where,
                    env=environ,
                    start_new_session=True,
                    stdout=subprocess.DEVNULL,
                )
                staying.append(process)
                wait_for(int(next(listening)), process)
                continue
            if command.startswith('export '):
                for assignment in shlex.split(command)[1:]:
                    name, _, value = assignment.partition('=')
                    environ[name] = re.sub(r'\$(\w+)', lambda found: environ[found[1]], value)
                continue
            done = subprocess.run(
                command,
                shell=True,
                cwd=where,
                env=environ,
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
            )
            assert done.returncode == 0, f'{command}: {done.stdout}{done.stderr}'
            lines = done.stdout.splitlines()
            if 'pytest -q' in command:
                assert re.fullmatch(r'\d+ passed, 3 skipped in .*', lines[-1]), done.stdout
            else:
                assert len(lines) == len(step.shown), f'{command}: {done.stdout}'
                for line, shown in zip(lines, step.shown, strict=True):
                    assert line.startswith(shown), f'{command}: {done.stdout}'
            ran.append(command.split()[0].rpartition('/')[2])
    assert ran == ['python3', 'pip', 'pip', 'pytest', 'curl', 'curl', 'curl', 'curl']
