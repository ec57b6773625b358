"""All options of the core, for oslo-config-generator."""

from os_interface_ext import conf


def list_opts() -> list:
    """The groups and their options, in the order of the sample file."""
    return [group for module in conf._GROUPS for group in module.list_opts()]
