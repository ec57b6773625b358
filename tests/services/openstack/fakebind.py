"""An ML2 mechanism driver for the test cloud, which has no agents: it binds every port there and then.

A port with a host is bound as one of Open vSwitch and becomes ACTIVE, as if that host's agent had wired it. The
name of the host asks for other outcomes: ``unbindable...`` is bound by nobody (``binding_failed``), ``noagent...``
is bound, and stays DOWN. Unbinding needs no code, ML2 does it. Runs inside Neutron, not inside the tests.
"""

from neutron_lib import constants
from neutron_lib.api.definitions import portbindings
from neutron_lib.plugins.ml2 import api


class FakeBindMechanismDriver(api.MechanismDriver):
    @property
    def connectivity(self) -> str:
        return portbindings.CONNECTIVITY_L2

    def initialize(self) -> None:
        self.vif_details = {
            portbindings.CAP_PORT_FILTER: True,
            portbindings.OVS_HYBRID_PLUG: False,
            portbindings.VIF_DETAILS_CONNECTIVITY: portbindings.CONNECTIVITY_L2,
            'datapath_type': 'system',
            'bridge_name': 'br-int',
        }

    def bind_port(self, context: api.PortContext) -> None:
        kind = context.current.get(portbindings.VNIC_TYPE, portbindings.VNIC_NORMAL)
        if context.host.startswith('unbindable') or kind != portbindings.VNIC_NORMAL:
            return
        wired = not context.host.startswith('noagent')
        status = constants.PORT_STATUS_ACTIVE if wired else constants.PORT_STATUS_DOWN
        for segment in context.segments_to_bind[:1]:
            context.set_binding(segment[api.ID], portbindings.VIF_TYPE_OVS, dict(self.vif_details), status=status)
