"""Order and report of the whole run."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # What needs no service comes first: it is quick, and fails first.
    items.sort(key=lambda item: item.get_closest_marker('service') is not None)
