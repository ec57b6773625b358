"""What a guest boots, made of Debian's packages, and what the tests ask it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator

from .. import cache, databases

#: Seconds after which a guest that does not answer is not going to, on a machine with much to do.
PATIENCE = 90.0
_KERNEL = 'linux-image-cloud-amd64'
#: What a NIC of virtio needs, in the order in which it is loaded.
_MODULES = (
    'drivers/virtio/virtio_ring',
    'drivers/virtio/virtio',
    'drivers/virtio/virtio_pci_legacy_dev',
    'drivers/virtio/virtio_pci_modern_dev',
    'drivers/virtio/virtio_pci',
    'net/core/failover',
    'drivers/net/net_failover',
    'drivers/net/virtio_net',
)
#: Carries out each line that comes over the serial line, and answers with its output.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in /lib/modules/*.ko; do insmod $module; done
ip link set lo up
exec </dev/ttyS0 >/dev/ttyS0 2>&1
stty raw -echo
while read -r token line; do
    output=$(eval "$line")
    echo "begin-$token $output end-$token"
done
"""


def image() -> pathlib.Path:
    """A folder with `vmlinux` and `initrd.gz`, made once.

    :raises databases.Unobtainable: Debian's kernel is not to be had
    """
    databases.install_missing(('busybox-static', 'cpio', 'lz4', 'xz-utils'))
    name = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()[:16]
    with cache.made(f'guest-{name}') as (folder, is_new):
        if is_new:
            _make(folder)
    return folder


def _make(folder: pathlib.Path) -> None:
    found = re.search(r'Depends: (linux-image-\S+)', _output('apt-cache', 'depends', _KERNEL))
    if found is None:
        subprocess.run(['apt-get', 'update', '-q'], check=True, capture_output=True)
        found = re.search(r'Depends: (linux-image-\S+)', _output('apt-cache', 'depends', _KERNEL))
    if found is None:
        raise databases.Unobtainable(f'apt knows no {_KERNEL}')
    work = folder / 'work'
    work.mkdir()
    # Not installed: that would want a boot loader, and an initramfs of this machine.
    download = ['apt-get', '-q', '-o', 'APT::Sandbox::User=root', 'download', found[1]]
    if subprocess.run(download, cwd=work, capture_output=True).returncode:
        subprocess.run(['apt-get', 'update', '-q'], check=True, capture_output=True)
        subprocess.run(download, cwd=work, check=True, capture_output=True)
    (package,) = work.glob('*.deb')
    subprocess.run(['dpkg-deb', '-x', str(package), str(work / 'kernel')], check=True)
    _unpack(next((work / 'kernel/boot').glob('vmlinuz-*')), folder / 'vmlinux')
    root = work / 'root'
    for directory in ('bin', 'dev', 'proc', 'sys', 'lib/modules'):
        (root / directory).mkdir(parents=True)
    busybox = shutil.which('busybox')
    assert busybox is not None
    shutil.copy(busybox, root / 'bin/busybox')
    (modules,) = (work / 'kernel/lib/modules').glob('*/kernel')
    for number, module in enumerate(_MODULES):
        shutil.copy(modules / f'{module}.ko', root / f'lib/modules/{number:02}.ko')
    (root / 'init').write_text(_INIT)
    (root / 'init').chmod(0o755)
    names = '\n'.join(sorted(str(path.relative_to(root)) for path in root.rglob('*')))
    cpio = ['cpio', '--quiet', '-o', '-H', 'newc', '-R', '0:0']
    archive = subprocess.run(cpio, input=names.encode(), cwd=root, check=True, capture_output=True).stdout
    (folder / 'initrd.gz').write_bytes(gzip.compress(archive))
    shutil.rmtree(work)


def _unpack(kernel: pathlib.Path, target: pathlib.Path) -> None:
    """The ELF file within a bzImage: a guest without KVM would unpack it slowly, each time.

    The form of the header: Documentation/arch/x86/boot.rst of Linux.
    """
    image = kernel.read_bytes()
    sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from('<II', image, 0x248)
    payload = image[(sectors + 1) * 512 + offset :][:length]
    # The build appends the unpacked size.
    if payload.startswith(b'\x02\x21\x4c\x18'):
        command = ['lz4', '-qdc']
    elif payload.startswith(b'\xfd7zXZ'):
        command = ['xz', '-dc']
    else:
        raise databases.Unobtainable(f'{kernel.name} is packed in a way that the tests do not know')
    target.write_bytes(subprocess.run(command, input=payload[:-4], check=True, capture_output=True).stdout)


def _output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


class Guest:
    """A shell on the serial line of a guest that runs.

    :param path: the socket that QEMU has made for it
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(0.2)
        self._socket.connect(str(path))
        self._text = ''

    def close(self) -> None:
        self._socket.close()

    def wait(self) -> None:
        """Return when it has booted."""
        # What is said before it listens is lost: so it is said again.
        assert self.run('echo up', repeat=0.3) == 'up'

    def run(self, command: str, *, repeat: float = PATIENCE) -> str:
        """What a command of one line answers."""
        token = uuid.uuid4().hex
        deadline = time.monotonic() + PATIENCE
        again = 0.0
        while time.monotonic() < deadline:
            if time.monotonic() >= again:
                self._socket.sendall(f'\n{token} {command}\n'.encode())
                again = time.monotonic() + repeat
            with contextlib.suppress(TimeoutError):
                self._text += self._socket.recv(65536).decode(errors='replace')
            answer = re.search(rf'begin-{token} (.*?) end-{token}', self._text, re.DOTALL)
            if answer is not None:
                self._text = ''
                return answer[1].replace('\r', '').strip()
        raise AssertionError(f'the guest does not answer to {command!r}: {self._text[-2000:]}')

    def nics(self) -> dict[str, tuple[str, int]]:
        """MAC address -> name and MTU, of each NIC that the guest has."""
        command = (
            'for nic in /sys/class/net/*; do [ ${nic##*/} = lo ] || '
            'echo ${nic##*/} $(cat $nic/address $nic/mtu); done 2>/dev/null'
        )
        rows = (line.split() for line in self.run(command).splitlines())
        return {row[1]: (row[0], int(row[2])) for row in rows if len(row) == 3}

    def wait_for(self, *macs: str) -> dict[str, tuple[str, int]]:
        """Its NICs, as soon as it has exactly those with these MAC addresses."""
        deadline = time.monotonic() + PATIENCE
        while set(found := self.nics()) != set(macs):
            assert time.monotonic() < deadline, f'the guest has {found} and not {macs}'
            time.sleep(0.05)
        return found

    def pings(self, address: str) -> bool:
        """Whether an address answers to it."""
        return self.run(f'ping -c 1 -W 2 {address} >/dev/null 2>&1 && echo yes || echo no') == 'yes'


@contextlib.contextmanager
def connected(path: pathlib.Path) -> Iterator[Guest]:
    """The shell of a guest that has booted, or is about to."""
    guest = Guest(path)
    try:
        yield guest
    finally:
        guest.close()
