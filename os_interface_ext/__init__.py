"""The OpenStack Compute port interfaces API (``os-interface``) as a plug-in."""

__version__ = '0.1.0'
