"""A driver whose library is not installed."""

import acme_wires  # noqa: F401
