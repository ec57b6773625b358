"""Which request, project, server and port a log line is about: in every line of ours, in any host.

``LOG = logs.get(__name__)`` is a logger whose lines carry the ids: as attributes of the record (``request_id``,
``project_id``, ``server_id``, ``port_id``), in its ``extra`` for oslo.log's JSON, and at the beginning of the
message, because the format of the lines is the host's. Nothing is installed anywhere but on that logger.

``setup`` is for the processes of our own alone.
"""

from __future__ import annotations

import contextvars
import logging
import warnings
from collections.abc import Mapping, Sequence

FIELDS = ('request_id', 'project_id', 'server_id', 'port_id')

Ids = Mapping[str, str | None]

_NOTHING: Ids = {}
_ids: contextvars.ContextVar[Ids] = contextvars.ContextVar('os_interface_ext ids', default=_NOTHING)
#: An id may come from a URL, and be anything.
_LONGEST = 255


def get(name: str) -> logging.Logger:
    """The logger of a module."""
    logger = logging.getLogger(name)
    logger.addFilter(_CARRIER)
    return logger


class about:
    """``with about(request_id=…)``: all lines within are about these, and what they are about outside."""

    __slots__ = ('_ids', '_token')

    _token: contextvars.Token[Ids]

    def __init__(self, **ids: str | None) -> None:
        self._ids = ids

    def __enter__(self) -> None:
        self._token = _ids.set({**_ids.get(), **self._ids})

    def __exit__(self, *_: object) -> None:
        _ids.reset(self._token)


def learn(**ids: str | None) -> None:
    """From here on to the end of the innermost ``about``, lines are about these, too."""
    known = _ids.get()
    if known is not _NOTHING:
        _ids.set({**known, **ids})


class _Carrier(logging.Filter):
    """Puts the ids into each record, and keeps none back."""

    #: False where the format has a place of its own for them.
    in_message = True

    def filter(self, record: logging.LogRecord) -> bool:
        known = _ids.get()
        ids = {name: _clean(value) for name in FIELDS if (value := known.get(name))}
        record.__dict__.update(ids, extra=ids)
        if ids and self.in_message:
            told = '[' + ' '.join(f'{name}={value}' for name, value in ids.items()) + '] '
            # With arguments, the message is a format.
            record.msg = (told.replace('%', '%%') if record.args else told) + str(record.msg)
        return True


_CARRIER = _Carrier()


def _clean(value: str) -> str:
    return ''.join(c if c.isprintable() and c != ' ' else '?' for c in str(value)[:_LONGEST])


def setup(files: Sequence[str], *, json: bool = False, level: int = logging.WARNING) -> None:
    """Have oslo.log set up the logging of this process, which must be ours.

    :param files: with oslo.log's options in ``[DEFAULT]``: ``debug``, ``use_json``, ``log_file``, …
    :param json: each line a JSON object, as with ``use_json``
    :param level: of our own lines; those of libraries are told from WARNING on, unless ``debug`` is set
    :raises ConfigurationError: an option is wrong
    """
    # Heavy, and with a memory of its own for the whole process: not for a host.
    from oslo_config import cfg
    from oslo_log import log

    from os_interface_ext import exceptions

    # Its options can be registered only before the command line is read: on an object of their own.
    conf = cfg.ConfigOpts()
    try:
        log.register_options(conf)
        conf(args=[], project='os-interface-ext', default_config_files=list(files), default_config_dirs=[])
        line = '%(asctime)s.%(msecs)03d %(process)d %(levelname)s %(name)s %(message)s'
        for option in ('logging_default_format_string', 'logging_context_format_string'):
            conf.set_default(option, line)
        conf.set_default('use_stderr', True)
        if json:
            conf.set_override('use_json', True)
        log.setup(conf, 'os-interface-ext', fix_eventlet=False)
        # oslo.messaging's, of which no operator can do anything about.
        warnings.filterwarnings('ignore', message=r'\s*Eventlet is deprecated')
    except (cfg.Error, log.LogConfigError, OSError) as error:
        raise exceptions.ConfigurationError(f'logging: {" ".join(str(error).split())}') from error
    if conf.log_config_append:
        return
    _CARRIER.in_message = not conf.use_json
    if not conf.debug:
        logging.getLogger().setLevel(logging.WARNING)
        logging.getLogger('os_interface_ext').setLevel(level)
