"""What a cloud's administrator does in Keystone for a test: users, tokens of every kind, and a region."""

from __future__ import annotations

import contextlib
import datetime
import time
import uuid
from collections.abc import Iterator
from typing import Any

from keystoneauth1 import session
from keystoneauth1.identity import v3

from tests.services.openstack.cloud import Cloud

DOMAIN = 'default'


class Identities:
    """Users and roles of a test's own in a real Keystone, removed at the end."""

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self._admin = session.Session(cloud.auth('admin', 'admin'))
        self._cleanup = contextlib.ExitStack()

    def close(self) -> None:
        self._cleanup.close()

    def ask(self, method: str, path: str, body: Any = None, token: str | None = None, **kwargs: Any) -> Any:
        """A request to Keystone, the administrator's unless there is a token; the answer's JSON."""
        authenticated = {'authenticated': False, 'headers': {'X-Auth-Token': token}} if token else {}
        answer = self._admin.request(
            self.cloud.keystone_url + path, method, json=body, **{**authenticated, **kwargs}
        )
        return answer.json() if answer.content else None

    def make(self, path: str, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Something that is removed at the end."""
        made: dict[str, Any] = self.ask('POST', path, {kind: body})[kind]
        self._cleanup.callback(self.ask, 'DELETE', f'{path}/{made["id"]}', raise_exc=False)
        return made

    def find(self, path: str, **query: str) -> str | None:
        """The id of the only thing that a query finds."""
        found = self.ask('GET', path, params=query)[path.rpartition('/')[2]]
        return found[0]['id'] if found else None

    def project(self, name: str) -> str:
        """The id of a project that is there."""
        found = self.find('/projects', name=name, domain_id=DOMAIN)
        assert found, f'there is no project {name}'
        return found

    def role(self, name: str) -> str:
        """The id of a role, which is made if it is not there."""
        return self.find('/roles', name=name) or self.make('/roles', 'role', {'name': name})['id']

    def new_project(self) -> str:
        return str(self.make('/projects', 'project', {'name': f'osif-{uuid.uuid4()}'})['id'])

    def new_user(self, place: str, *roles: str) -> str:
        """The id of a new user with roles at a place: ``/projects/ID``, ``/domains/ID``, ``/system``."""
        body = {'name': f'osif-{uuid.uuid4()}', 'password': self.cloud.password, 'domain_id': DOMAIN}
        user: str = self.make('/users', 'user', body)['id']
        for role in roles:
            self.ask('PUT', f'{place}/users/{user}/roles/{self.role(role)}')
        return user

    # ------------------------------------------------------------------ tokens

    def token(self, user_id: str, **scope: Any) -> str:
        """A token of a user of ours, the scope as keystoneauth has it: ``project_id=…``, ``unscoped=True``."""
        auth = v3.Password(
            auth_url=self.cloud.keystone_url, user_id=user_id, password=self.cloud.password, **scope
        )
        return str(session.Session(auth).get_token())

    def token_of_credential(self, user_id: str, project_id: str, **options: Any) -> str:
        """A token of a new application credential with these options."""
        body = {'application_credential': {'name': str(uuid.uuid4()), **options}}
        own = self.token(user_id, project_id=project_id)
        path = f'/users/{user_id}/application_credentials'
        made = self.ask('POST', path, body, own)['application_credential']
        auth = v3.ApplicationCredential(
            auth_url=self.cloud.keystone_url,
            application_credential_id=made['id'],
            application_credential_secret=made['secret'],
        )
        return str(session.Session(auth).get_token())

    def expiring(self, user_id: str, project_id: str) -> tuple[str, float]:
        """A token that expires soon, and when (as :func:`time.time` has it)."""
        # A token lives no longer than the credential that it came from; Keystone cuts the fraction off. There
        # has to be time for asking for it, on a busy machine too.
        end = datetime.datetime.fromtimestamp(int(time.time()) + 4, datetime.UTC)
        text = end.strftime('%Y-%m-%dT%H:%M:%S')
        return self.token_of_credential(user_id, project_id, expires_at=text), end.timestamp()

    def revoke(self, token: str) -> None:
        self.ask('DELETE', '/auth/tokens', headers={'X-Subject-Token': token})

    # ------------------------------------------------------------------ the catalog

    @contextlib.contextmanager
    def region(self, **endpoints: str) -> Iterator[str]:
        """A region of the catalog with an endpoint of each of these types, as long as the block lasts."""
        with contextlib.ExitStack() as cleanup:
            region = f'osif-{uuid.uuid4().hex[:12]}'
            self.ask('POST', '/regions', {'region': {'id': region}})
            cleanup.callback(self.ask, 'DELETE', f'/regions/{region}', raise_exc=False)
            for kind, url in endpoints.items():
                service = self.find('/services', type=kind)
                if service is None:
                    made = self.ask('POST', '/services', {'service': {'type': kind, 'name': kind}})
                    service = made['service']['id']
                for interface in ('public', 'internal'):
                    body = {'service_id': service, 'interface': interface, 'url': url, 'region_id': region}
                    made = self.ask('POST', '/endpoints', {'endpoint': body})['endpoint']
                    cleanup.callback(self.ask, 'DELETE', f'/endpoints/{made["id"]}', raise_exc=False)
            yield region
