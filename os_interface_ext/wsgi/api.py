"""``application``, built at import from the default configuration, for any WSGI server."""

import configparser
import os

from paste.deploy import loadapp

from os_interface_ext import conf as config
from os_interface_ext import exceptions, paths

_conf = config.new()
_name = _conf.api.paste_config
_path = os.path.abspath(_name) if os.path.dirname(_name) else paths.find(_name)

try:
    application = loadapp(f'config:{_path}', name=_conf.api.auth_strategy)
except (OSError, LookupError, configparser.Error) as error:
    raise exceptions.ConfigurationError(
        f'option [api] paste_config: {_conf.api.auth_strategy!r} cannot be loaded from {_path} '
        f'({" ".join(str(error).split())}): correct the file, or the option'
    ) from error
