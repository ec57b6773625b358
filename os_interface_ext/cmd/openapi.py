"""``os-interface-ext openapi``: the description of the API."""

from __future__ import annotations

import argparse
import sys

from os_interface_ext.api import description, microversions, reference


def run(options: argparse.Namespace) -> int:
    """Write the description of a microversion, or the reference.

    :raises MalformedVersion: :raises VersionNotAcceptable:
    """
    if options.format == 'markdown':
        text = reference.render()
    else:
        asked = {'HTTP_OPENSTACK_API_VERSION': f'compute {options.microversion}'}
        version = microversions.negotiate(asked, microversions.MAX)
        text = description.dump(description.make(version), options.format)
    sys.stdout.write(text)
    return 0
