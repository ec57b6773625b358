"""The configuration files of the cloud's services."""

from __future__ import annotations

import configparser
import dataclasses
import pathlib
from collections.abc import Mapping

#: Every name has one; the cloud is reached from this machine only, and thrown away.
PASSWORD = 'secret'
REGION = 'RegionOne'
#: The host that Nova's one compute service has.
COMPUTE_HOST = 'compute1'
#: What listens.
LISTENERS = (
    'mariadb',
    'memcached',
    'keystone',
    'neutron',
    'rabbitmq',
    'rabbitmq-distribution',
    'epmd',
    'glance',
    'placement',
    'nova',
)

Section = Mapping[str, object]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where everything is: the folder of the cloud, its virtual environment, its logs, and its ports."""

    folder: pathlib.Path
    venv: pathlib.Path
    logs: pathlib.Path
    ports: Mapping[str, int]

    @property
    def keystone_url(self) -> str:
        return f'http://127.0.0.1:{self.ports["keystone"]}/v3'

    @property
    def memcached(self) -> str:
        return f'127.0.0.1:{self.ports["memcached"]}'

    def database(self, name: str) -> str:
        return f'mysql+pymysql://root@127.0.0.1:{self.ports["mariadb"]}/{name}'

    def etc(self, name: str) -> pathlib.Path:
        return self.folder / 'etc' / name

    def state(self, name: str) -> pathlib.Path:
        return self.folder / 'state' / name

    def log(self, name: str) -> pathlib.Path:
        return self.logs / f'{name}.log'


def write(place: Place, *, nova: bool = False) -> None:
    """Write all of them; ``nova``: Neutron tells Nova of its ports."""
    for name, sections in {
        'keystone/keystone.conf': _keystone(place),
        'neutron/neutron.conf': _neutron(place, nova),
        'neutron/ml2_conf.ini': _ml2(),
        'placement/placement.conf': _placement(place),
        'glance/glance-api.conf': _glance(place),
        'nova/nova.conf': _nova(place),
    }.items():
        path = place.etc(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        place.state(path.parent.name).mkdir(parents=True, exist_ok=True)
        parser = configparser.RawConfigParser()
        parser.read_dict({name: _text(section) for name, section in sections.items()})
        with path.open('w') as file:
            parser.write(file)


def _text(section: Section) -> dict[str, str]:
    return {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in section.items()}


def _user(place: Place, name: str) -> Section:
    return {
        'auth_url': place.keystone_url,
        'auth_type': 'password',
        'username': name,
        'password': PASSWORD,
        'project_name': 'service',
        'user_domain_id': 'default',
        'project_domain_id': 'default',
        'region_name': REGION,
    }


def _common(place: Place, user: str) -> dict[str, Section]:
    return {
        'keystone_authtoken': {
            **_user(place, user),
            'www_authenticate_uri': place.keystone_url,
            'memcached_servers': place.memcached,
            'service_token_roles': 'service',
            'service_token_roles_required': True,
        },
        'oslo_concurrency': {'lock_path': place.state(user) / 'lock'},
        'oslo_messaging_notifications': {'driver': 'noop'},
        **_POLICY,
    }


_POLICY: dict[str, Section] = {'oslo_policy': {'enforce_scope': True, 'enforce_new_defaults': True}}


def _keystone(place: Place) -> dict[str, Section]:
    return {
        'DEFAULT': {'log_file': place.log('keystone')},
        'database': {'connection': place.database('keystone')},
        'token': {'provider': 'fernet', 'expiration': 86400},
        'fernet_tokens': {'key_repository': place.state('keystone') / 'fernet'},
        'credential': {'key_repository': place.state('keystone') / 'credential'},
        # Without it the validation of one token is more than 100 queries, and takes up to a second.
        'cache': {
            'enabled': True,
            'backend': 'dogpile.cache.memcached',
            'memcache_servers': place.memcached,
        },
        # Tests log in all the time.
        'identity': {'password_hash_rounds': 4},
        **_POLICY,
    }


def _neutron(place: Place, nova: bool) -> dict[str, Section]:
    quotas = ('network', 'subnet', 'port', 'security_group', 'security_group_rule', 'router', 'floatingip')
    return {
        'DEFAULT': {
            'log_file': place.log('neutron'),
            'state_path': place.state('neutron'),
            'core_plugin': 'ml2',
            # Not trunk: it refuses to start where no mechanism driver supports trunks.
            'service_plugins': 'router',
            'api_paste_config': place.venv / 'etc/neutron/api-paste.ini',
            # Without agents there is nobody to send messages to, and no broker.
            'transport_url': 'fake://',
            'rpc_workers': 0,
            'dhcp_agent_notification': False,
            'notify_nova_on_port_status_changes': nova,
            'notify_nova_on_port_data_changes': nova,
        },
        'nova': _user(place, 'nova'),
        'database': {'connection': place.database('neutron')},
        'quotas': {f'quota_{name}': -1 for name in quotas},
        **_common(place, 'neutron'),
    }


def _ml2() -> dict[str, Section]:
    return {
        'ml2': {
            'type_drivers': 'local,flat,vlan,vxlan',
            'tenant_network_types': 'vxlan',
            'mechanism_drivers': 'fakebind',
            'extension_drivers': 'port_security,tag_ports_during_bulk_creation',
        },
        'ml2_type_flat': {'flat_networks': '*'},
        'ml2_type_vlan': {'network_vlan_ranges': 'physnet1:100:999'},
        'ml2_type_vxlan': {'vni_ranges': '1:10000'},
        'securitygroup': {'enable_security_group': True},
    }


def _placement(place: Place) -> dict[str, Section]:
    return {
        'DEFAULT': {'log_file': place.log('placement')},
        'placement_database': {'connection': place.database('placement')},
        'api': {'auth_strategy': 'keystone'},
        **_common(place, 'placement'),
    }


def _glance(place: Place) -> dict[str, Section]:
    state = place.state('glance')
    return {
        'DEFAULT': {'log_file': place.log('glance'), 'enabled_backends': 'files:file'},
        'glance_store': {'default_backend': 'files'},
        'files': {'filesystem_store_datadir': state / 'images'},
        'os_glance_staging_store': {'filesystem_store_datadir': state / 'staging'},
        'os_glance_tasks_store': {'filesystem_store_datadir': state / 'tasks'},
        'paste_deploy': {
            'flavor': 'keystone',
            'config_file': place.venv / 'etc/glance/glance-api-paste.ini',
        },
        'database': {'connection': place.database('glance')},
        # Glance has no user of its own here: it only looks at tokens.
        **_common(place, 'nova'),
    }


def _nova(place: Place) -> dict[str, Section]:
    limits = ('instances', 'cores', 'ram', 'metadata_items', 'key_pairs', 'server_groups')
    return {
        'DEFAULT': {
            'log_dir': place.logs,
            'state_path': place.state('nova'),
            'host': COMPUTE_HOST,
            'my_ip': '127.0.0.1',
            'transport_url': f'rabbit://guest:guest@127.0.0.1:{place.ports["rabbitmq"]}/',
            # fake.FakeDriver is another node after each restart, which nova-compute refuses.
            'compute_driver': 'fake.PredictableNodeUUIDDriver',
            'reserved_host_memory_mb': 0,
            'cpu_allocation_ratio': 1000,
            'ram_allocation_ratio': 1000,
            'disk_allocation_ratio': 1000,
            'vif_plugging_is_fatal': False,
            'vif_plugging_timeout': 0,
            # So that services are known to be up, and the compute host to the scheduler, without much ado.
            'report_interval': 2,
            'periodic_fuzzy_delay': 0,
        },
        'api_database': {'connection': place.database('nova_api')},
        'database': {'connection': place.database('nova')},
        'conductor': {'workers': 1},
        'scheduler': {'workers': 1, 'discover_hosts_in_cells_interval': 2},
        'wsgi': {'api_paste_config': place.venv / 'etc/nova/api-paste.ini'},
        'cache': {
            'enabled': True,
            'backend': 'dogpile.cache.memcached',
            'memcache_servers': place.memcached,
        },
        'vnc': {'enabled': False},
        'quota': dict.fromkeys(limits, -1),
        'glance': {'valid_interfaces': 'public', 'region_name': REGION},
        'service_user': {**_user(place, 'nova'), 'send_service_user_token': True},
        'placement': _user(place, 'placement'),
        'neutron': _user(place, 'neutron'),
        **_common(place, 'nova'),
    }
