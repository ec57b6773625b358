"""A libvirtd of the tests' own, with guests that run Linux: all of it in namespaces, and gone afterwards."""

from .guest import Guest
from .hypervisor import Hypervisor, running

__all__ = ['Guest', 'Hypervisor', 'running']
