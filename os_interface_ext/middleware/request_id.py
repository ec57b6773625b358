"""oslo.middleware's request id, under Nova's header too."""

from oslo_middleware import request_id


class ComputeRequestId(request_id.RequestId):
    """Answers ``x-compute-request-id`` beside ``x-openstack-request-id``."""

    compat_headers = ['x-compute-request-id']
