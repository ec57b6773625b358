"""The cloud as tests see it."""

from __future__ import annotations

import contextlib
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import openstack.connection
from keystoneauth1 import session
from keystoneauth1.identity import v3
from openstack.network.v2 import network as sdk_network

from .. import processes
from . import configuration, image
from .site import Site, node_of

#: The one image of Nova's servers, and their flavors: name -> id, RAM.
IMAGE = 'tiny'
FLAVORS = {'m1.tiny': ('1', 64), 'm1.small': ('2', 128)}


class Cloud:
    """Keystone and Neutron on loopback; and Nova, after :meth:`start_nova`.

    Users (one password, see ``image.USERS`` for projects and roles): ``admin``; ``demo``, ``demo_reader``,
    ``demo_manager`` of the project ``demo``; ``alt``, ``alt_reader`` of ``alt``; and with the roles of services in
    ``service``: ``neutron``, ``nova``, ``placement``, and ``osif`` for the service under test.

    ``workers``: ``neutron``, ``keystone``, ``nova`` ... -> its processes, and the threads of each (1 and 4).
    """

    password = configuration.PASSWORD
    region = configuration.REGION
    #: where Nova's servers are
    compute_host = configuration.COMPUTE_HOST

    def __init__(
        self, logs: pathlib.Path | None = None, workers: Mapping[str, tuple[int, int]] | None = None
    ) -> None:
        environment = image.environment()
        data = image.data(environment)
        self._site = Site(environment, logs, workers)
        self._has_nova = False
        try:
            image.lay_out(data, self._site)
            self._site.start('mariadb', 'memcached')
            for kind, url in (('identity', self.keystone_url), ('network', self.neutron_url)):
                self._site.sql(
                    'UPDATE endpoint JOIN service ON endpoint.service_id = service.id'
                    ' SET endpoint.url = :url WHERE service.type = :kind',
                    'keystone',
                    url=url,
                    kind=kind,
                )
            self._site.start('keystone', 'neutron')
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._site.close()

    @property
    def keystone_url(self) -> str:
        """With ``/v3``: what is called ``auth_url``."""
        return self._site.place.keystone_url

    @property
    def neutron_url(self) -> str:
        return f'http://127.0.0.1:{self.port("neutron")}'

    @property
    def nova_url(self) -> str:
        """With ``/v2.1``."""
        return f'http://127.0.0.1:{self.port("nova")}/v2.1'

    @property
    def memcached(self) -> str:
        """Host and port."""
        return self._site.place.memcached

    @property
    def place(self) -> configuration.Place:
        """Where everything is: the folders, the environment, the ports."""
        return self._site.place

    @property
    def logs(self) -> pathlib.Path:
        """The folder of the logs."""
        return self._site.place.logs

    def port(self, service: str) -> int:
        """The port of 127.0.0.1 that a service listens on (for a proxy in between, for one)."""
        return self._site.place.ports[service]

    # Processes

    def start(self, service: str) -> None:
        """Start one of the services again, and wait until it answers."""
        self._site.start(service)

    def stop(self, service: str) -> None:
        """End one of the services (``neutron``, ``nova-compute``, ``mariadb`` ...) in an orderly way."""
        self._site.daemon(service).stop()

    def kill(self, service: str) -> None:
        """End one of the services by SIGKILL."""
        self._site.daemon(service).kill()

    def pid(self, service: str) -> int:
        """The first process of a service, the leader of its process group."""
        return self._site.daemon(service).pid

    def start_nova(self) -> None:
        """Start Nova and what it needs, with a compute host of the fake driver; at most once.

        There are the flavors of ``FLAVORS`` and the image ``IMAGE``, and the catalog has all of the services.
        Neutron is started again: it tells Nova of its ports from now on.
        """
        if self._has_nova:
            return
        site = self._site
        # First what may not be obtainable.
        site.start('epmd')
        configuration.write(site.place, nova=True)
        for name in ('images', 'staging', 'tasks'):
            (site.place.state('glance') / name).mkdir(exist_ok=True)
        (site.place.state('nova') / 'instances').mkdir(exist_ok=True)
        # The fake driver does not write it, and without it nova-compute would refuse its second start.
        (site.place.state('nova') / 'compute_id').write_text(node_of(self.compute_host))
        for kind, name in (('image', 'glance'), ('placement', 'placement')):
            self.set_endpoint(kind, f'http://127.0.0.1:{self.port(name)}')
        self.set_endpoint('compute', self.nova_url)
        # The broker is slow; these try again until it is there.
        for name in ('rabbitmq', 'nova-conductor', 'nova-scheduler'):
            site.daemon(name).launch()
        self.stop('neutron')
        site.start('glance', 'placement', 'neutron', 'rabbitmq', 'nova')
        # Not before: it asks for the conductor once, and then only after ten seconds again.
        site.daemon('nova-compute').launch()
        admin = self.connection('admin')
        for name, (number, memory) in FLAVORS.items():
            # Without a disk it would refuse servers that have an image.
            admin.compute.create_flavor(id=number, name=name, ram=memory, vcpus=1, disk=1)
        admin.image.create_image(
            name=IMAGE,
            data=b'\0' * 512,
            container_format='bare',
            disk_format='raw',
            visibility='public',
            validate_checksum=False,
        )
        site.start('nova-conductor', 'nova-scheduler', 'nova-compute')
        self._wait_for_host()
        self._has_nova = True

    def _wait_for_host(self) -> None:
        """Wait until the scheduler knows the compute host, which a server would else not find."""
        site = self._site
        until = time.monotonic() + processes.PATIENCE
        while not site.sql('SELECT 1 FROM host_mappings WHERE host = :host', 'nova_api', host=self.compute_host):
            if time.monotonic() > until:
                logs = [site.place.log(name) for name in ('nova-compute', 'nova-scheduler')]
                raise processes.Broken(f'the scheduler has found no host\n{processes.last_lines(*logs)}')
            time.sleep(0.1)

    # Who asks

    def auth(self, user: str = 'demo', project: str | None = None) -> v3.Password:
        """A user's credentials, for the user's own project unless another is named."""
        return v3.Password(
            auth_url=self.keystone_url,
            username=user,
            password=self.password,
            project_name=project or image.USERS[user][0],
            user_domain_id='default',
            project_domain_id='default',
        )

    def session(self, user: str = 'demo', project: str | None = None) -> session.Session:
        return session.Session(auth=self.auth(user, project))

    def connection(self, user: str = 'demo', project: str | None = None) -> openstack.connection.Connection:
        """A connection of openstacksdk. The catalog is that of the moment it asks for its token."""
        return openstack.connection.Connection(
            session=self.session(user, project), region_name=self.region, identity_api_version='3'
        )

    def token(self, user: str = 'demo', project: str | None = None) -> str:
        """A new token."""
        token = self.session(user, project).get_token()
        assert token is not None
        return token

    def environment(self, user: str = 'demo', project: str | None = None) -> dict[str, str]:
        """The variables that tell OpenStack's command line clients of the cloud and of a user."""
        return {
            'OS_AUTH_URL': self.keystone_url,
            'OS_USERNAME': user,
            'OS_PASSWORD': self.password,
            'OS_PROJECT_NAME': project or image.USERS[user][0],
            'OS_USER_DOMAIN_ID': 'default',
            'OS_PROJECT_DOMAIN_ID': 'default',
            'OS_REGION_NAME': self.region,
            'OS_IDENTITY_API_VERSION': '3',
        }

    def set_endpoint(self, kind: str, url: str) -> None:
        """Make the catalog name a URL for a type of service. Tokens of before may still come with the old one."""
        identity: Any = self.connection('admin').identity
        service = next((one for one in identity.services(type=kind)), None)
        if service is None:
            service = identity.create_service(name=image.SERVICES.get(kind, kind), type=kind)
        known = {one.interface: one for one in identity.endpoints(service_id=service.id)}
        for interface in ('public', 'internal', 'admin'):
            if interface not in known:
                identity.create_endpoint(
                    service_id=service.id, interface=interface, url=url, region_id=self.region
                )
            elif known[interface].url != url:
                identity.update_endpoint(known[interface], url=url)

    # What there is

    def database(self, name: str) -> str:
        """The SQLAlchemy URL of a database of this name, which is empty whatever was there before."""
        self._site.sql(f'DROP DATABASE IF EXISTS {name}')
        self._site.sql(f'CREATE DATABASE {name}')
        return self._site.place.database(name)

    @staticmethod
    def network(
        connection: openstack.connection.Connection, cidr: str = '10.1.0.0/20', name: str = 'net'
    ) -> sdk_network.Network:
        """A new network with one subnet, of the project of a connection."""
        made = connection.network.create_network(name=name)
        connection.network.create_subnet(network_id=made.id, ip_version=4, cidr=cidr, name=name)
        return connection.network.get_network(made.id)


@contextlib.contextmanager
def running(
    logs: pathlib.Path | None = None, workers: Mapping[str, tuple[int, int]] | None = None
) -> Iterator[Cloud]:
    """A cloud for as long as the block lasts.

    :raises databases.Unobtainable: if there is no way to get what it is made of
    """
    cloud = Cloud(logs, workers)
    try:
        yield cloud
    finally:
        cloud.close()
