"""An installation as checks see it: its files, and what is made of them when it is first asked for."""

from __future__ import annotations

import functools
import re
import threading
from collections.abc import Sequence
from typing import Any

from oslo_config import cfg

from os_interface_ext import conf as config
from os_interface_ext.attachments.reconciler import Reconciler
from os_interface_ext.attachments.stepper import Stepper
from os_interface_ext.attachments.store import Store
from os_interface_ext.conf import opts
from os_interface_ext.db.engine import Database
from os_interface_ext.drivers import base

_PASSWORD_IN_URL = re.compile(r'://[^:/@\s]*:([^@\s]+)@')
_PASSWORD_IN_QUERY = re.compile(r'[?&]\w*password=([^&\s]+)')
#: What is shown of a secret.
_MASK = '***'


class Installation:
    """:param names: the ini files, or None for those that are looked for
    :param overrides: ``group={option: value}``, stronger than the files
    """

    def __init__(self, names: Sequence[str] | None = None, **overrides: dict[str, object]) -> None:
        self.names = names
        self.overrides = overrides
        #: file -> section -> option -> values, as they stand there
        self.written: dict[str, dict[str, dict[str, list[str]]]] = {}
        #: held while a driver is made: that imports libraries, and registers options
        self.making = threading.Lock()
        # In the main thread: what oslo.messaging imports (eventlet, where that is installed) keeps a thread that
        # imports it from ever being seen to end.
        self._listed = opts.list_opts()
        #: option of ``[os_interface]`` -> driver
        self.drivers: dict[str, Any] = {}
        self._conf: config.Config | None = None

    def read(self) -> None:
        """Read the files; what the values are does not matter.

        :raises ConfigurationError:
        """
        files = config.files_of(self.names)
        self._conf = config.read(files, **self.overrides)
        for name in files:
            sections: dict[str, dict[str, list[str]]] = {}
            cfg.ConfigParser(name, sections).parse()
            self.written[name] = sections

    @property
    def conf(self) -> config.Config:
        assert self._conf is not None
        return self._conf

    @property
    def database(self) -> Database:
        return Database.of(self.conf)

    @property
    def store(self) -> Store:
        return Store(self.database, lease=self.conf.attachments.lease)

    @property
    def reconciler(self) -> Reconciler:
        """One with the drivers that have been made; for looking alone."""
        servers: base.ServerDriver = self.drivers['server_driver']
        networks: base.NetworkDriver = self.drivers['network_driver']
        vifs: base.VIFDriver = self.drivers['vif_driver']
        options = self.conf.reconciler
        store = self.store
        stepper = Stepper(
            store,
            servers,
            networks,
            vifs,
            backoff=options.backoff,
            backoff_cap=options.backoff_cap,
            stuck_attempts=options.stuck_attempts,
        )
        return Reconciler(options, store, stepper, servers, networks)

    # ------------------------------------------------------------------ options

    def known(self) -> dict[str, dict[str, cfg.Opt]]:
        """All options by group and name: those of the sample, and those that drivers have registered."""
        found: dict[str, dict[str, cfg.Opt]] = {'DEFAULT': {}}
        for group, options in self._listed:
            for option in options:
                found.setdefault(getattr(group, 'name', group) or 'DEFAULT', {})[option.dest] = option
        if self._conf is not None:
            for name, option in config.options(self._conf):
                found.setdefault(name or 'DEFAULT', {})[option.dest] = option
        for group in found:
            for name, option in self._of_plugin(group).items():
                found[group].setdefault(name, option)
        return found

    def _of_plugin(self, group: str) -> dict[str, cfg.Opt]:
        """What the way of authentication takes that a group names."""
        names = [
            value
            for sections in self.written.values()
            for key in ('auth_type', 'auth_plugin')
            for value in sections.get(group, {}).get(key, [])
        ]
        if not names:
            return {}
        try:
            from keystoneauth1 import loading

            options = loading.get_auth_plugin_conf_options(names[-1].strip())
        except Exception:
            # Whoever makes the plug-in tells what is wrong.
            return {}
        return {option.dest: option for option in options}

    # ------------------------------------------------------------------ secrets

    def mask(self, text: str) -> str:
        """A text without any of the secrets of the configuration; to be called when all checks are made."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, _MASK)
        return text

    @functools.cached_property
    def _secrets(self) -> set[str]:
        values: list[str] = []
        known = self.known()
        for sections in self.written.values():
            for group, options in sections.items():
                for name, written in options.items():
                    option = known.get(group, {}).get(name.replace('-', '_'))
                    if option is None or option.secret:
                        # One that nobody knows may be a secret with a slip in its name.
                        values += written if option is not None or _sounds_secret(name) else []
        for overridden in self.overrides.values():
            values += [str(value) for value in overridden.values()]
        found: set[str] = set()
        for value in values:
            if '://' in value:
                found |= set(_PASSWORD_IN_URL.findall(value)) | set(_PASSWORD_IN_QUERY.findall(value))
            else:
                found.add(value)
        return {secret for secret in found if len(secret) > 1 and secret != _MASK}


def _sounds_secret(name: str) -> bool:
    return any(part in name.lower() for part in ('pass', 'secret', 'token', 'key'))
