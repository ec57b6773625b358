"""Where the files of ``etc/`` are: installed, or in a checkout."""

import os
import sysconfig

from os_interface_ext import exceptions

_FOLDER = os.path.join('etc', 'os-interface-ext')


def find(name: str) -> str:
    """The path of a file of ours.

    Looked for in /etc/os-interface-ext (the operator's own), below the prefix of the installation, and in
    the checkout.

    :raises ConfigurationError: it is in none of these
    """
    bases = ['/', sysconfig.get_path('data'), os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    tried = [os.path.join(base, _FOLDER, name) for base in bases]
    for path in tried:
        if os.path.exists(path):
            return path
    raise exceptions.ConfigurationError(f'file {name} is in none of {", ".join(tried)}: install it again')
