"""A small OpenStack of its own for the tests: real Keystone, Neutron and, on demand, Nova, on loopback."""

from .cloud import Cloud, running

__all__ = ['Cloud', 'running']
