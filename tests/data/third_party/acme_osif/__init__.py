"""Drivers of a third party."""
