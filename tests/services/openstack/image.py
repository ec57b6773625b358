"""What a run of the cloud starts from: the virtual environment and the first data, made once and kept.

They are in a folder of the user's cache, each named after what it is made of; whoever comes first makes them, and
another one waits.
"""

from __future__ import annotations

import hashlib
import pathlib
import shutil
import subprocess
import sys
import venv
from concurrent import futures
from typing import Any

import openstack.connection
from keystoneauth1 import session
from keystoneauth1.identity import v3

from .. import cache, databases
from . import configuration
from .site import Site

_HERE = pathlib.Path(__file__).parent
_CONSTRAINTS = _HERE / 'constraints.txt'
_DATABASES = ('keystone', 'neutron', 'placement', 'glance', 'nova', 'nova_api', 'nova_cell0')
#: user -> (project, roles there); ``admin`` is made by Keystone itself
USERS: dict[str, tuple[str, tuple[str, ...]]] = {
    'admin': ('admin', ()),
    'demo': ('demo', ('member',)),
    'demo_reader': ('demo', ('reader',)),
    'demo_manager': ('demo', ('manager',)),
    'alt': ('alt', ('member',)),
    'alt_reader': ('alt', ('reader',)),
    'neutron': ('service', ('admin', 'service')),
    'nova': ('service', ('admin', 'service')),
    'placement': ('service', ('admin', 'service')),
    'osif': ('service', ('admin', 'service')),
}
#: type of a service -> its name
SERVICES = {'network': 'neutron', 'compute': 'nova', 'image': 'glance', 'placement': 'placement'}


def environment() -> pathlib.Path:
    """The virtual environment with OpenStack's packages.

    :raises databases.Unobtainable: if the packages are not to be had
    """
    name = _name(_CONSTRAINTS, _HERE / 'fakebind.py')
    with cache.made(f'cloud-{name}') as (folder, is_new):
        if is_new:
            _make_environment(folder)
    return folder


def data(environment: pathlib.Path) -> pathlib.Path:
    """A folder with the data directory of MariaDB and the keys of Keystone, after all that needs no port."""
    server = subprocess.run(
        [databases.need('mariadbd', 'mariadb-server-core'), '--version'], capture_output=True, text=True
    )
    sources = [_HERE / name for name in ('image.py', 'configuration.py')]
    name = _name(*sources, also=f'{environment.name} {server.stdout}')
    with cache.made(f'cloud-data-{name}') as (folder, is_new):
        if is_new:
            _make_data(environment, folder)
    return folder


def lay_out(data: pathlib.Path, site: Site) -> None:
    """Copy the data to where the cloud has it."""
    shutil.copytree(data / 'mysql', site.folder / 'mysql')
    shutil.copytree(data / 'keystone', site.place.state('keystone'), dirs_exist_ok=True)


def _name(*files: pathlib.Path, also: str = '') -> str:
    parts = [sys.version, also, *(file.read_text() for file in files)]
    return hashlib.sha256('\0'.join(parts).encode()).hexdigest()[:16]


def _make_environment(folder: pathlib.Path) -> None:
    # In its final place: an environment that is moved has scripts that name the old one.
    venv.create(folder, with_pip=True)
    python = folder / 'bin/python'
    # The list is complete: without a resolver it takes half the time.
    pip = [str(python), '-m', 'pip', 'install', '--quiet', '--no-deps', '--requirement', str(_CONSTRAINTS)]
    result = subprocess.run(pip, capture_output=True, text=True)
    if result.returncode:
        words = '\n'.join(result.stderr.strip().splitlines()[-5:])
        raise databases.Unobtainable(f'the packages of OpenStack cannot be installed: {words}')
    script = 'import sysconfig; print(sysconfig.get_path("purelib"))'
    packages = pathlib.Path(subprocess.check_output([python, '-c', script], text=True).strip())
    # What pip would make of the driver, which is one file and one entry point.
    shutil.copy(_HERE / 'fakebind.py', packages / 'osif_fakebind.py')
    about = packages / 'osif_fakebind-1.dist-info'
    about.mkdir()
    (about / 'METADATA').write_text('Metadata-Version: 2.1\nName: osif-fakebind\nVersion: 1\n')
    (about / 'entry_points.txt').write_text(
        '[neutron.ml2.mechanism_drivers]\nfakebind = osif_fakebind:FakeBindMechanismDriver\n'
    )


def _make_data(environment: pathlib.Path, folder: pathlib.Path) -> None:
    site = Site(environment)
    try:
        site.start('mariadb', 'memcached')
        for name in _DATABASES:
            site.sql(f'CREATE DATABASE {name} CHARACTER SET utf8mb3')
        with futures.ThreadPoolExecutor(2) as pool:
            # The longest first.
            steps = [pool.submit(step, site) for step in (_neutron, _keystone, _nova, _glance, _placement)]
            for step in steps:
                step.result()
        site.daemon('keystone').stop()
        site.daemon('mariadb').stop()
        shutil.copytree(site.folder / 'mysql', folder / 'mysql')
        shutil.copytree(site.place.state('keystone'), folder / 'keystone')
    finally:
        site.close()


def _keystone(site: Site) -> None:
    manage = ('keystone-manage', '--config-file', str(site.place.etc('keystone') / 'keystone.conf'))
    site.command(*manage, 'db_sync')
    user = subprocess.check_output(['id', '-un'], text=True).strip()
    group = subprocess.check_output(['id', '-gn'], text=True).strip()
    for step in ('fernet_setup', 'credential_setup'):
        site.command(*manage, step, '--keystone-user', user, '--keystone-group', group)
    url = site.place.keystone_url
    site.command(
        *manage,
        'bootstrap',
        *('--bootstrap-password', configuration.PASSWORD),
        *('--bootstrap-region-id', configuration.REGION),
        *('--bootstrap-public-url', url),
        *('--bootstrap-internal-url', url),
        *('--bootstrap-admin-url', url),
    )
    site.start('keystone')
    _identities(url)


def _identities(url: str) -> None:
    """Projects, users, roles, services; and the endpoint of Neutron, whose port is written in later."""
    auth = v3.Password(
        auth_url=url,
        username='admin',
        password=configuration.PASSWORD,
        project_name='admin',
        user_domain_id='default',
        project_domain_id='default',
    )
    identity: Any = openstack.connection.Connection(
        session=session.Session(auth=auth), region_name=configuration.REGION, identity_api_version='3'
    ).identity
    projects = {'admin': identity.find_project('admin')}
    for name in ('service', 'demo', 'alt'):
        projects[name] = identity.create_project(name=name, domain_id='default')
    roles = {role.name: role for role in identity.roles()}
    for name, (project, granted) in USERS.items():
        if name == 'admin':
            user = identity.find_user('admin', domain_id='default')
        else:
            user = identity.create_user(
                name=name,
                password=configuration.PASSWORD,
                domain_id='default',
                default_project_id=projects[project].id,
            )
        for role in granted:
            if role not in roles:
                roles[role] = identity.create_role(name=role)
            identity.assign_project_role_to_user(projects[project], user, roles[role])
        if name == 'admin':
            for other in ('demo', 'service'):
                identity.assign_project_role_to_user(projects[other], user, roles['admin'])
    for kind, name in SERVICES.items():
        service = identity.create_service(name=name, type=kind)
        if kind == 'network':
            for interface in ('public', 'internal', 'admin'):
                identity.create_endpoint(
                    service_id=service.id, interface=interface, url=url, region_id=configuration.REGION
                )


def _neutron(site: Site) -> None:
    etc = site.place.etc('neutron')
    files = ('--config-file', str(etc / 'neutron.conf'), '--config-file', str(etc / 'ml2_conf.ini'))
    site.command('neutron-db-manage', *files, 'upgrade', 'heads')


def _nova(site: Site) -> None:
    manage = ('nova-manage', '--config-file', str(site.place.etc('nova') / 'nova.conf'))
    site.command(*manage, 'api_db', 'sync')
    # Forms that each run fills in from its own configuration, for the ports are never the same.
    form = '{scheme}://{username}@{hostname}:{port}/'
    site.command(*manage, 'cell_v2', 'map_cell0', '--database_connection', f'{form}nova_cell0')
    site.command(*manage, 'db', 'sync')
    site.command(
        *manage,
        *('cell_v2', 'create_cell', '--name', 'cell1'),
        *('--database_connection', f'{form}nova'),
        *('--transport-url', '{scheme}://{username}:{password}@{hostname}:{port}/'),
    )


def _glance(site: Site) -> None:
    path = site.place.etc('glance') / 'glance-api.conf'
    site.command('glance-manage', '--config-file', str(path), 'db_sync')


def _placement(site: Site) -> None:
    path = site.place.etc('placement') / 'placement.conf'
    site.command('placement-manage', '--config-file', str(path), 'db', 'sync')
