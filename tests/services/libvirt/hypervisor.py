"""A libvirtd in a mount and a network namespace of its own, the bridges beside it, and domains of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from .. import cache, databases, openvswitch
from . import guest, library

#: Seconds after which something that is waited for is not going to happen any more.
PATIENCE = 60.0
#: Of the host's end of the bridge; the guests of the tests have addresses beside it.
GATEWAY, PREFIX = '10.34.0.1', 20
LINUX_BRIDGE, OVS_BRIDGE = 'br-linux', 'br-ovs'
_LIBVIRTD = '/usr/sbin/libvirtd'
_PACKAGES = ('qemu-system-x86', 'libvirt-daemon', 'libvirt-daemon-driver-qemu', 'iproute2')
_QEMU_CONF = """
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
"""
_LIBVIRTD_CONF = """
listen_tls = 0
listen_tcp = 0
unix_sock_dir = "{folder}/run"
unix_sock_rw_perms = "0700"
auth_unix_rw = "none"
auth_unix_ro = "none"
log_outputs = "2:file:{folder}/log/libvirtd.log"
"""
#: libvirtd has its folders in fixed places: other ones are put there, for it and its children alone.
_START = """
for pair in etc:/etc/libvirt lib:/var/lib/libvirt log:/var/log/libvirt run:/run/libvirt \
        etc/passwd:/etc/passwd etc/group:/etc/group; do
    mount --bind "$1/${pair%%:*}" "${pair#*:}"
done
mount --bind "$2" /var/cache/libvirt
exec ip netns exec "$3" "$4" -f "$1/etc/libvirtd.conf" -p "$1/run/libvirtd.pid"
"""


class Hypervisor:
    """A host of the tests' own; ``namespace`` is that of the bridges and taps.

    :raises databases.Unobtainable: this machine cannot have one
    """

    def __init__(self) -> None:
        if os.geteuid() != 0:
            raise databases.Unobtainable('libvirtd, its bridges and its taps are made by root')
        self.python_path = library.ensure()
        databases.install_missing(_PACKAGES)
        self.image = guest.image()
        # The path of a socket is short.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix='osif-lv-'))
        self.namespace = self.folder.name
        self.uri = f'qemu+unix:///system?socket={self.folder}/run/libvirt-sock'
        self._process: subprocess.Popen[bytes] | None = None
        self._cache = self._make_cache()
        self._lay_out()
        try:
            self.ip('netns', 'add', self.namespace, inside=False)
            self.ip('link', 'set', 'lo', 'up')
            self.ip('link', 'add', LINUX_BRIDGE, 'type', 'bridge', 'forward_delay', '0')
            self.ip('address', 'add', f'{GATEWAY}/{PREFIX}', 'dev', LINUX_BRIDGE)
            self.ip('link', 'set', LINUX_BRIDGE, 'up')
        except subprocess.CalledProcessError as error:
            self.remove()
            raise databases.Unobtainable(f'this machine has no network namespaces: {error.stderr}') from error

    def _make_cache(self) -> pathlib.Path:
        """What libvirt finds out of QEMU takes it seconds, the first time."""
        version = subprocess.check_output(['qemu-system-x86_64', '--version'])
        with cache.made(f'libvirt-cache-{hashlib.sha256(version).hexdigest()[:16]}') as (folder, _):
            return folder

    def _lay_out(self) -> None:
        for name in ('etc', 'lib', 'log', 'run'):
            (self.folder / name).mkdir()
        for name in ('/var/lib/libvirt', '/var/cache/libvirt', '/var/log/libvirt', '/run/libvirt', '/etc/libvirt'):
            pathlib.Path(name).mkdir(parents=True, exist_ok=True)
        (self.folder / 'etc/qemu.conf').write_text(_QEMU_CONF)
        (self.folder / 'etc/libvirtd.conf').write_text(_LIBVIRTD_CONF.format(folder=self.folder))
        # Debian's user for QEMU comes with a package that brings a systemd with it; libvirtd insists on it.
        for name, line in (
            ('passwd', 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin\n'),
            ('group', 'libvirt-qemu:x:64055:\n'),
        ):
            text = pathlib.Path('/etc', name).read_text()
            with contextlib.suppress(KeyError):
                pwd.getpwnam('libvirt-qemu')
                line = ''
            (self.folder / 'etc' / name).write_text(text + line)

    # ------------------------------------------------------------------ libvirtd

    def start(self) -> None:
        """Start libvirtd, and wait until it answers; the domains that run are found again."""
        # One that was killed leaves its sockets behind.
        for path in (self.folder / 'run').glob('*sock*'):
            path.unlink()
        command = ['unshare', '--mount', '--propagation', 'private', 'bash', '-ec', _START, '_']
        with (self.folder / 'log/stdout').open('ab') as log:
            self._process = subprocess.Popen(
                [*command, str(self.folder), str(self._cache), self.namespace, _LIBVIRTD],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, 'OVS_RUNDIR': f'{self.folder}/ovs'},
            )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.settle()
                return
            except self.error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    log_text = (self.folder / 'log/stdout').read_text()
                    raise databases.Unobtainable(f'libvirtd does not start: {log_text}') from None
                time.sleep(0.02)

    def settle(self) -> None:
        """Wait for what it does with the domains that run, and have it saved.

        Killed while it takes over one, or before it has saved that a NIC has gone, the next libvirtd ends the
        guest: that is libvirt's own affair.
        """
        import libvirt

        for domain in self.connect().listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
            with contextlib.suppress(self.error):
                # Whatever changes a domain waits for what else does, and is saved, be it nothing.
                element, live = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_LIVE
                domain.setMetadata(element, None, None, 'urn:nothing', live)

    def kill(self) -> None:
        """End libvirtd as a crash does; the guests live on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE)

    def signal(self, number: int) -> None:
        """Send libvirtd a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Without a libvirtd for the time of a block."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """With a libvirtd that stands still for the time of a block."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def connect(self) -> Any:
        """A connection of the tests' own."""
        import libvirt

        # What goes wrong is raised; libvirt would print it too.
        libvirt.registerErrorHandler(lambda *_: None, None)
        return libvirt.open(self.uri)

    @property
    def error(self) -> type[Exception]:
        import libvirt

        return libvirt.libvirtError  # type: ignore[no-any-return]

    # ------------------------------------------------------------------ the host

    def ip(self, *arguments: str, inside: bool = True) -> str:
        """The command ``ip``, in the namespace of the bridges."""
        where = ['-n', self.namespace] if inside else []
        return subprocess.run(['ip', *where, *arguments], check=True, capture_output=True, text=True).stdout

    def taps(self) -> set[str]:
        """The names of the taps there are."""
        rows = self.ip('-o', 'link', 'show').splitlines()
        names = (row.split()[1].rstrip(':').partition('@')[0] for row in rows)
        return {name for name in names if name.startswith('tap')}

    @contextlib.contextmanager
    def switched(self) -> Iterator[openvswitch.OpenVSwitch]:
        """With an Open vSwitch, and a bridge of it, for the time of a block.

        :raises databases.Unobtainable:
        """
        # Where libvirtd's ovs-vsctl looks for it.
        place = self.folder / 'ovs'
        with openvswitch.running(self.namespace) as switch:
            switch.add_bridge(OVS_BRIDGE)
            place.symlink_to(switch.folder)
            try:
                yield switch
            finally:
                place.unlink()

    def remove(self) -> None:
        """End all of it."""
        with contextlib.suppress(Exception):
            connection = self.connect()
            for domain in connection.listAllDomains():
                with contextlib.suppress(self.error):
                    domain.destroy()
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(PATIENCE)
            finally:
                self._process.kill()
        pids = [path.read_text() for path in (self.folder / 'run/qemu').glob('*.pid')]
        for pid in (int(text) for text in pids if text.strip()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        subprocess.run(['ip', 'netns', 'del', self.namespace], check=False, capture_output=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ domains

    def define(self, name: str, *, slots: int = 8, metadata: str = '', boots: bool = True) -> Any:
        """A domain that is shut off, with so many slots for NICs.

        :param metadata: XML
        :param boots: it has Linux; without it the guest never answers
        """
        server_id = str(uuid.uuid4())
        kernel = (
            f'<kernel>{self.image}/vmlinux</kernel><initrd>{self.image}/initrd.gz</initrd>'
            '<cmdline>console=ttyS0 quiet panic=-1</cmdline>'
        )
        ports = ''.join(
            f"<controller type='pci' index='{number}' model='pcie-root-port'/>" for number in range(1, slots + 1)
        )
        # Never KVM: where it cannot be relied on, a guest hangs instead of failing.
        description = f"""
        <domain type='qemu'>
          <name>{name}</name>
          <uuid>{server_id}</uuid>
          <metadata>{metadata}</metadata>
          <memory unit='MiB'>128</memory>
          <vcpu>1</vcpu>
          <os><type arch='x86_64' machine='q35'>hvm</type>{kernel if boots else ''}</os>
          <features><acpi/></features>
          <on_crash>preserve</on_crash>
          <devices>
            <emulator>/usr/bin/qemu-system-x86_64</emulator>
            <controller type='pci' index='0' model='pcie-root'/>
            {ports}
            <controller type='usb' model='none'/>
            <memballoon model='none'/>
            <serial type='unix'><source mode='bind' path='{self.console(server_id)}'/></serial>
          </devices>
        </domain>"""
        return self.connect().defineXML(description)

    def console(self, server_id: str) -> pathlib.Path:
        return self.folder / f'{server_id[:8]}.serial'

    def undefine(self, domain: Any) -> None:
        """End a domain and forget it, if it is still there."""
        import libvirt

        with contextlib.suppress(self.error):
            domain = self.find(domain.UUIDString())
            with contextlib.suppress(self.error):
                domain.destroy()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)

    def find(self, server_id: str) -> Any:
        """A domain, over a connection that lives."""
        return self.connect().lookupByUUIDString(server_id)

    def qemu(self, server_id: str) -> int:
        """The process of a domain that runs."""
        return int((self.folder / f'run/qemu/{self.find(server_id).name()}.pid').read_text())

    def nics(self, server_id: str, *, live: bool) -> list[ElementTree.Element]:
        """The NICs of a domain as it runs, or as it is configured."""
        import libvirt

        domain = self.find(server_id)
        if live and not domain.isActive():
            return []
        flags = 0 if live else libvirt.VIR_DOMAIN_XML_INACTIVE
        return ElementTree.fromstring(domain.XMLDesc(flags)).findall('./devices/interface')


@contextlib.contextmanager
def running() -> Iterator[Hypervisor]:
    """A hypervisor for as long as the block lasts.

    :raises databases.Unobtainable:
    """
    hypervisor = Hypervisor()
    try:
        hypervisor.start()
        yield hypervisor
    finally:
        hypervisor.remove()
