"""Public helpers for those who write drivers: the contract suites, and drivers in memory.

A driver's own tests subclass the suite of its kind and say what is under test::

    from os_interface_ext.testing import networks


    class TestMyDriver(networks.NetworkDriverContract):
        @pytest.fixture
        def backend(self):
            with my_cloud() as cloud:
                yield networks.NetworkBackend(driver=MyNetworkDriver(cloud.conf), ...)

:mod:`~os_interface_ext.testing.servers`, :mod:`~os_interface_ext.testing.networks` and
:mod:`~os_interface_ext.testing.vifs` hold the suites, and need pytest;
:mod:`~os_interface_ext.testing.memory` holds a complete driver of all three kinds, and does not.
"""

import sys

if 'pytest' in sys.modules:
    # Otherwise a failed assertion of a suite would not show the values that it compared.
    sys.modules['pytest'].register_assert_rewrite(
        *(f'{__name__}.{module}' for module in ('contract', 'servers', 'networks', 'vifs'))
    )
