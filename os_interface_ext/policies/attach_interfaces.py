"""The rules of the four operations, and of the lock; names and defaults are Nova's."""

from oslo_policy import policy

from os_interface_ext.policies import base

ROOT = 'os_compute_api:os-attach-interfaces:%s'
UNLOCK_OVERRIDE = 'os_compute_api:os-lock-server:unlock:unlock_override'

_COLLECTION = '/servers/{server_id}/os-interface'
_ITEM = '/servers/{server_id}/os-interface/{port_id}'


def _rule(operation: str, check: str, description: str, method: str, path: str) -> policy.RuleDefault:
    return policy.DocumentedRuleDefault(
        name=ROOT % operation,
        check_str=check,
        description=description,
        operations=[{'method': method, 'path': path}],
        scope_types=['project'],
    )


RULES = [
    _rule(
        'list',
        base.PROJECT_READER_OR_ADMIN,
        'List the port interfaces of a server',
        'GET',
        _COLLECTION,
    ),
    _rule('show', base.PROJECT_READER_OR_ADMIN, 'Show a port interface of a server', 'GET', _ITEM),
    _rule('create', base.PROJECT_MEMBER_OR_ADMIN, 'Attach an interface to a server', 'POST', _COLLECTION),
    _rule('delete', base.PROJECT_MEMBER_OR_ADMIN, 'Detach an interface from a server', 'DELETE', _ITEM),
    policy.DocumentedRuleDefault(
        name=UNLOCK_OVERRIDE,
        check_str='rule:context_is_admin',
        description='Attach to and detach from a server although somebody has locked it',
        operations=[
            {'method': 'POST', 'path': _COLLECTION},
            {'method': 'DELETE', 'path': _ITEM},
        ],
        scope_types=['project'],
    ),
]
