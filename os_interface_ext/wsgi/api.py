"""``application``, built at import from the default configuration, for any WSGI server."""

import os

from paste.deploy import loadapp

from os_interface_ext import conf as config
from os_interface_ext import paths

_conf = config.new()
_name = _conf.api.paste_config
_path = os.path.abspath(_name) if os.path.dirname(_name) else paths.find(_name)

application = loadapp(f'config:{_path}', name=_conf.api.auth_strategy)
