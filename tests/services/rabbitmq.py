"""A private RabbitMQ of Debian's package: a node of its own, with its own epmd, cookie and data, on loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import glob
import os
import pathlib
import tempfile
import time
from collections.abc import Iterator, Mapping

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from . import databases, processes

#: What listens.
LISTENERS = ('rabbitmq', 'rabbitmq-distribution', 'epmd')


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a node works: the folder of its data, that of its logs, its ports, and who watches its processes."""

    state: pathlib.Path
    logs: pathlib.Path
    ports: Mapping[str, int]
    guard: processes.Guard
    environment: Mapping[str, str]


def epmd(place: Place) -> processes.Daemon:
    """The port mapper of the node: started by ourselves, or else the node leaves one behind.

    :raises databases.Unobtainable: the machine has none, and it cannot be installed
    """
    port = place.ports['epmd']
    return processes.Daemon(
        'epmd',
        place.guard,
        [databases.need('epmd', 'rabbitmq-server'), '-address', '127.0.0.1', '-port', str(port)],
        place.environment,
        lambda: processes.listens(port),
        [place.logs / 'epmd.log'],
    )


def broker(place: Place, settings: Mapping[str, object] | None = None) -> processes.Daemon:
    """The node itself, which wants its epmd.

    :param settings: more lines of its rabbitmq.conf
    :raises databases.Unobtainable: the machine has none, and it cannot be installed
    """
    ports, state = place.ports, place.state
    state.mkdir(parents=True, exist_ok=True)
    (state / 'plugins').write_text('[].\n')
    values = {'loopback_users': 'none', 'log.file.level': 'warning', **(settings or {})}
    (state / 'rabbitmq.conf').write_text(''.join(f'{name} = {value}\n' for name, value in values.items()))
    # Not the one of the search path: for root that changes to another user.
    scripts = sorted(glob.glob('/usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server'))
    return processes.Daemon(
        'rabbitmq',
        place.guard,
        [scripts[-1] if scripts else databases.need('rabbitmq-server', 'rabbitmq-server')],
        {
            **place.environment,
            'HOME': str(state),
            'ERL_EPMD_ADDRESS': '127.0.0.1',
            'ERL_EPMD_PORT': str(ports['epmd']),
            'RABBITMQ_NODENAME': f'osif{ports["rabbitmq"]}@localhost',
            'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1',
            'RABBITMQ_NODE_PORT': str(ports['rabbitmq']),
            'RABBITMQ_DIST_PORT': str(ports['rabbitmq-distribution']),
            'RABBITMQ_MNESIA_BASE': str(state / 'mnesia'),
            'RABBITMQ_LOG_BASE': str(place.logs),
            'RABBITMQ_CONFIG_FILE': str(state / 'rabbitmq.conf'),
            'RABBITMQ_ENABLED_PLUGINS_FILE': str(state / 'plugins'),
            'RABBITMQ_PID_FILE': str(state / 'pid'),
            'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': '+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}',
        },
        lambda: processes.listens(ports['rabbitmq']),
        [place.logs / 'rabbitmq.log'],
    )


class RabbitMQ:
    """A node that can be stopped and started; with a second listener for TLS.

    ``ca_file`` is who vouches for its certificate, which is for localhost.
    """

    def __init__(self, logs: pathlib.Path) -> None:
        folder = pathlib.Path(tempfile.mkdtemp(prefix='osif-rabbitmq-'))
        self._guard = processes.Guard(folder)
        ports = processes.free_ports([*LISTENERS, 'tls'])
        self.ca_file = folder / 'ca.pem'
        settings = {
            'listeners.ssl.default': f'127.0.0.1:{ports["tls"]}',
            'ssl_options.cacertfile': self.ca_file,
            'ssl_options.certfile': folder / 'certificate.pem',
            'ssl_options.keyfile': folder / 'key.pem',
        }
        write_certificate(folder)
        kept = {name: value for name, value in os.environ.items() if not name.startswith('RABBITMQ_')}
        place = Place(folder, logs, ports, self._guard, kept)
        try:
            self._epmd, self._broker = epmd(place), broker(place, settings)
            self.port, self.tls_port = ports['rabbitmq'], ports['tls']
            self._epmd.start()
            self._broker.start()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """As oslo.messaging has it."""
        return url(self.port)

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._broker.start()

    def kill(self) -> None:
        """End it at once; whoever is connected is cut off."""
        self._broker.kill()
        # Its children end a little later.
        while processes.listens(self.port):
            time.sleep(0.01)

    def close(self) -> None:
        """End all of it, and remove its folder."""
        for daemon in (getattr(self, '_broker', None), getattr(self, '_epmd', None)):
            if daemon is not None:
                daemon.kill()
        self._guard.close()


def write_certificate(folder: pathlib.Path) -> None:
    """One for localhost, which vouches for itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'localhost')])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName('localhost')]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / 'key.pem').write_bytes(key.private_bytes(pem, *private))
    for file in ('certificate.pem', 'ca.pem'):
        (folder / file).write_bytes(certificate.public_bytes(pem))


def url(port: int) -> str:
    """Of a node that is reached at a port of 127.0.0.1."""
    return f'rabbit://guest:guest@127.0.0.1:{port}/'


@contextlib.contextmanager
def running(logs: pathlib.Path) -> Iterator[RabbitMQ]:
    """A node for as long as the block lasts; its logs stay.

    :raises databases.Unobtainable:
    """
    node = RabbitMQ(logs)
    try:
        yield node
    finally:
        node.close()
