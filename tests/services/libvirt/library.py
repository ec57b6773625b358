"""libvirt-python, which comes as source and is built against the libvirt of the machine: once, and kept."""

from __future__ import annotations

import hashlib
import importlib.util
import pathlib
import subprocess
import sys

from .. import cache, databases

_PACKAGES = ('libvirt-dev', 'pkg-config', 'gcc', 'libc6-dev')


def ensure() -> str:
    """Have it importable here; the folder that has it, for the PYTHONPATH of other processes (empty: none needed).

    :raises databases.Unobtainable: it cannot be built on this machine
    """
    found = importlib.util.find_spec('libvirt')
    if found is not None:
        folder = pathlib.Path(found.origin or '').parent
        return str(folder) if folder.name.startswith('libvirt-') else ''
    databases.install_missing(_PACKAGES)
    # Python's own headers, where it is Debian's.
    if not list(pathlib.Path(_include()).glob('Python.h')):
        databases.install_missing(('python3-dev',))
    version = subprocess.check_output(['pkg-config', '--modversion', 'libvirt'], text=True).strip()
    name = hashlib.sha256(f'{sys.version}\0{version}'.encode()).hexdigest()[:16]
    with cache.made(f'libvirt-python-{name}') as (folder, is_new):
        if is_new:
            pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--no-deps', '--target', str(folder)]
            result = subprocess.run([*pip, 'libvirt-python>=9.0'], capture_output=True, text=True)
            if result.returncode:
                words = '\n'.join(result.stderr.strip().splitlines()[-5:])
                raise databases.Unobtainable(f'libvirt-python cannot be built: {words}')
    sys.path.append(str(folder))
    importlib.invalidate_caches()
    return str(folder)


def _include() -> str:
    script = 'import sysconfig; print(sysconfig.get_path("include"))'
    return subprocess.check_output([sys.executable, '-c', script], text=True).strip()
