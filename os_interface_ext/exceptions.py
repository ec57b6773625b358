"""The errors of this project, those that drivers may raise included: one hierarchy.

Every error has two audiences. ``message`` is what the caller of the API reads: it says what to do and
carries nothing internal. ``operator`` is what goes to the log. ``code`` is the HTTP status that the API
answers with; a driver never needs to know it.

``error_code`` is what a program may go by and a person may look up: it never changes, whatever becomes of the
class and of the message. ``cause`` and ``cure`` are what the reference says of it. A driver's own subclass has
those of the class that it is made from.
"""


class OsInterfaceError(Exception):
    """Root of all errors of this project.

    :param message: text for the caller of the API; a class has a default
    :param operator: text for the operator's log alone; the message if not given
    """

    code = 500
    error_code = 'unexpected'
    cause = 'Something failed that nobody has foreseen; the log has its traceback.'
    cure = 'Nothing that a caller could change. Give the request id to the operator, who finds it in the log.'

    default = 'An unexpected error occurred. Ask the operator, and name the request id.'

    def __init__(self, message: str | None = None, *, operator: str | None = None) -> None:
        self.message = message or self.default
        self.operator = operator or self.message
        super().__init__(self.operator)


def _shown(identifier: str) -> str:
    """An id as it was sent, fit for one line."""
    return ''.join(character if character.isprintable() else '?' for character in identifier[:255])


class ConfigurationError(OsInterfaceError, SystemExit):  # type: ignore[misc]
    """The start cannot go on: one line that names the option, the value and the cure.

    Nobody has to catch it: as a SystemExit it ends the process with status 1 and that line on standard
    error, without a traceback, whichever front door it leaves through.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = f'os-interface-ext: {message}'  # type: ignore[assignment]


# ------------------------------------------------------------------ what drivers may raise


class DriverError(OsInterfaceError):
    """Root of what a driver may raise; raised itself only by a driver with a failure of its own kind."""

    error_code = 'driver_failed'
    cause = 'A driver has failed in a manner of its own.'
    cure = 'Give the request id to the operator: the log says what the driver says.'


class Unavailable(DriverError):
    """The backend did not answer, and nothing happened: the call may be made again.

    :param retry_after: seconds after which it is worth trying again
    :param operator_cure: what the operator can do about it, where that is known
    """

    code = 503
    error_code = 'backend_unavailable'
    cause = 'The database, or a service that a driver asks, did not answer; nothing has happened.'
    cure = 'Send the request again after the seconds of `Retry-After`.'

    default = 'A backend of this service does not answer at the moment. Try again later.'

    def __init__(
        self,
        message: str | None = None,
        *,
        operator: str | None = None,
        retry_after: int = 5,
        operator_cure: str = '',
    ) -> None:
        super().__init__(message, operator=operator)
        self.retry_after = retry_after
        self.operator_cure = operator_cure


class UnknownOutcome(Unavailable):
    """The call may have had its effect, or not: to be settled by reading or by asking again."""

    error_code = 'outcome_unknown'
    cause = 'A service behind this one broke off before it confirmed what it was asked to do.'
    cure = (
        'List the interfaces first: the request may have had its effect. What is half done is taken back '
        'without you.'
    )

    default = 'A backend of this service did not confirm the request. Look again before you repeat it.'


class NotSupported(DriverError):
    """The backend cannot do what was asked."""

    code = 501
    error_code = 'not_supported'
    cause = 'A driver that this cloud uses cannot do what was asked.'
    cure = 'Do without it, or ask the operator for another driver.'

    default = 'This is not supported here.'


class CallerRefused(DriverError):
    """The backend itself does not allow this to the caller."""

    code = 403
    error_code = 'refused_by_backend'
    cause = 'A service behind this one (Neutron, by its policy) does not allow this to the caller.'
    cure = 'Ask the owner of the network or port, or use another one.'

    default = 'A service behind this one does not allow this to you. Ask the owner of the network.'


class TokenRefused(DriverError):
    """The backend does not accept the caller's token any more."""

    code = 401
    error_code = 'token_refused'
    cause = 'The token was good here, but a service behind this one does not take it any more.'
    cure = 'Authenticate again, and repeat the request with the new token.'

    default = 'The token is not valid any more. Authenticate again.'


class NotFound(DriverError):
    code = 404
    error_code = 'not_found'
    cause = 'Nothing is at this URL.'
    cure = 'Correct the URL: there is no slash at its end, and none twice.'
    default = 'The resource could not be found.'


class ServerNotFound(NotFound):
    error_code = 'server_not_found'
    cause = 'There is no such server, or it is one of another project: nobody learns which.'
    cure = 'Correct the id (a name is none), or use a token of the project that has the server.'

    def __init__(self, server_id: str, *, operator: str | None = None) -> None:
        super().__init__(f'Instance {_shown(server_id)} could not be found.', operator=operator)


class ServerNotReady(DriverError):
    """The server is on no host, so that nothing can be plugged into it."""

    code = 409
    error_code = 'server_not_ready'
    cause = 'The server is on no host, so that there is nothing to plug the interface into.'
    cure = 'Try again when the server has been scheduled to a host.'

    def __init__(self, server_id: str, *, operator: str | None = None) -> None:
        super().__init__(
            f'Instance {_shown(server_id)} is not on a host. Try again when it is.', operator=operator
        )


class PortNotFound(NotFound):
    error_code = 'port_not_found'
    cause = 'There is no such port, or the caller may not see it.'
    cure = 'Correct `port_id`, or use a port of the project.'

    def __init__(self, port_id: str, *, operator: str | None = None) -> None:
        super().__init__(f'Port id {_shown(port_id)} could not be found.', operator=operator)


class NetworkNotFound(NotFound):
    error_code = 'network_not_found'
    cause = 'There is no such network, or the caller may not see it.'
    cure = 'Correct `net_id`, or have the network shared with the project.'

    def __init__(self, network_id: str, *, operator: str | None = None) -> None:
        super().__init__(f'Network {_shown(network_id)} could not be found.', operator=operator)


class NetworkAmbiguous(DriverError):
    code = 400
    error_code = 'network_ambiguous'
    cause = 'Neither a port nor a network was named, and the project has several networks.'
    cure = 'Name one with `net_id`.'

    default = 'More than one network is possible. Name one with net_id.'


class NetworkNotUsable(DriverError):
    """The network exists and is visible, but a port cannot be made on it for this server."""

    code = 400
    error_code = 'network_not_usable'
    cause = (
        'The network is there, but no port for this server can be made on it: it has no subnet, say, or the '
        'project has no network at all.'
    )
    cure = 'Name another network with `net_id`, or give this one a subnet.'

    default = 'The network cannot be used for this server. Choose another one.'


class NetworkForbidden(NetworkNotUsable):
    """The network is not for callers of this kind (an external network, for a member)."""

    code = 403
    error_code = 'network_forbidden'
    cause = 'The network is an external one, to which only an administrator may attach.'
    cure = 'Attach to a network of the project, and give the port a floating IP; or ask an administrator.'

    default = 'It is not allowed to attach to an external network. Ask an administrator.'


class QuotaExceeded(DriverError):
    code = 403
    error_code = 'quota_exceeded'
    cause = 'The project has as many ports as its quota allows.'
    cure = 'Delete a port, or ask for a larger quota.'

    default = 'The quota of ports of this project is used up. Delete a port, or ask for a larger quota.'


class NoAddress(DriverError):
    code = 400
    error_code = 'no_address'
    cause = 'Every address of the subnets is in use.'
    cure = 'Detach or delete a port of the network, choose another network, or ask for a larger pool.'

    default = 'No address is left on the network. Detach a port of it, or choose another network.'


class AddressInUse(DriverError):
    code = 409
    error_code = 'address_in_use'
    cause = 'Another port has the fixed IP address that was asked for.'
    cure = 'Ask for another address, or for none.'

    def __init__(self, address: str, *, operator: str | None = None) -> None:
        super().__init__(f'Fixed IP address {address} is already in use. Choose another one.', operator=operator)


class AddressInvalid(DriverError):
    """The address is not one that the network gives to a port."""

    code = 400
    error_code = 'address_invalid'
    cause = (
        'The fixed IP address is in no subnet of the network, or is not one for a port (that of the gateway, say).'
    )
    cure = 'Ask for an address within a subnet, or for none.'

    def __init__(self, address: str, *, operator: str | None = None) -> None:
        super().__init__(
            f'Fixed IP address {address} is not a valid address for a port of the network. '
            'Choose one within a subnet of it.',
            operator=operator,
        )


class PortNotUsable(DriverError):
    """The port exists, but is not one for this server (another project's, a kind that cannot be plugged)."""

    code = 400
    error_code = 'port_not_usable'
    cause = (
        'The port is there, but not for this server: another project has it, it has no address, or it is of '
        'a kind that cannot be plugged here. The message says which.'
    )
    cure = 'Choose another port, or attach a network.'

    def __init__(self, port_id: str, why: str | None = None, *, operator: str | None = None) -> None:
        super().__init__(
            f'Port {port_id} is not usable for this server{": " + why if why else ""}. Choose another port.',
            operator=operator,
        )


class PortInUse(DriverError):
    """The port is bound to another device."""

    code = 409
    error_code = 'port_in_use'
    cause = 'The port is bound to another device.'
    cure = 'Detach it there first, or choose another port.'

    def __init__(self, port_id: str, *, operator: str | None = None) -> None:
        super().__init__(f'Port {port_id} is still in use. Detach it first.', operator=operator)


class NotOurs(DriverError):
    """The port does not carry the mark that the caller named: it is left alone."""

    error_code = 'port_not_ours'
    cause = 'A port that was to be deleted turned out not to be made by this service.'
    cure = 'Nothing: the port was left alone. Give the request id to the operator.'

    default = 'The port was not made by this service and is left alone.'


class BindingFailed(DriverError):
    """The network backend could not bind the port to the server's host."""

    error_code = 'binding_failed'
    cause = 'The network backend could not bind the port on the host of the server.'
    cure = 'Try another network. The operator looks at the network agent of that host; nothing was attached.'

    default = 'The port could not be bound on the host of the server; nothing was attached.'


class PlugFailed(DriverError):
    """The NIC could not be plugged; what was half made has been taken back by the driver."""

    error_code = 'plug_failed'
    cause = 'The NIC could not be plugged into the server.'
    cure = (
        'Try again. The operator looks at the log of the VIF driver, or of the agent on the host; nothing '
        'was attached.'
    )

    default = 'The interface could not be plugged into the server; nothing was attached.'


class InProgress(DriverError):
    """The NIC is on its way out, but not gone yet: to be asked again. Never an answer of the API."""

    error_code = 'unplug_in_progress'
    cause = (
        'The NIC is on its way out of the server. Never an answer of the API: the detach is finished without '
        'the caller.'
    )
    cure = 'Wait until the interface is no longer listed.'

    default = 'The interface is still being taken out of the server.'


class DeadlinePassed(Unavailable):
    """The fence forbids to begin a side effect: the time of its holder is over."""

    error_code = 'deadline_passed'
    cause = 'The request took longer than it may hold the port, and was given up.'
    cure = 'Send the request again after the seconds of `Retry-After`.'

    default = 'The request took too long and was given up. Try again.'


# ------------------------------------------------------------------ what the API itself raises


class RequestError(OsInterfaceError):
    """Root of the answers of our own to a request."""

    error_code = 'request_refused'
    cause = 'The request was refused.'
    cure = 'The message says why.'


class BadRequest(RequestError):
    code = 400
    error_code = 'bad_request'
    cause = 'The request could not be read: its body broke off, say.'
    cure = 'Send it again, whole.'
    default = 'The request could not be read. Send it again.'


class MalformedVersion(BadRequest):
    error_code = 'malformed_version'
    cause = 'A version header cannot be read.'
    cure = 'Send `OpenStack-API-Version: compute 2.70`, or another of the versions served, or `compute latest`.'
    default = 'API Version String is of invalid format. It must be of format MajorNum.MinorNum, such as 2.70.'


class ProjectMismatch(BadRequest):
    error_code = 'project_mismatch'
    cause = 'The project id in the URL is not that of the token.'
    cure = 'Use the URL without a project id, or the one of the token (an administrator too).'
    default = "Malformed request URL: the project_id of the URL doesn't match that of the token."


class MalformedQuery(BadRequest):
    error_code = 'malformed_query'
    cause = 'The query string is not UTF-8.'
    cure = 'Encode it as UTF-8, percent-encoded.'
    default = 'The query string is not UTF-8.'


class UnknownParameter(BadRequest):
    error_code = 'unknown_parameter'
    cause = 'The query string has a parameter; none is known since 2.102.'
    cure = 'Leave the parameter out, or ask for a version before 2.102.'

    def __init__(self, name: str) -> None:
        super().__init__(f'Additional query parameters are not allowed: {name[:64]!r} was unexpected.')


class MalformedBody(BadRequest):
    """:param why: what it is not"""

    error_code = 'malformed_body'
    cause = 'The body is not JSON, or no JSON object.'
    cure = 'Send a JSON object; `{}` is one.'

    def __init__(self, why: str = 'it is not a JSON object') -> None:
        super().__init__(f'Malformed request body: {why}.')


class InvalidBody(BadRequest):
    error_code = 'invalid_body'
    cause = (
        'A field of the body is unknown at this microversion, or has a value that it cannot have; or the fields '
        'do not go together: `net_id` with `port_id`, `fixed_ips` without `net_id`. The message names the field.'
    )
    cure = 'Correct the field. `tag` needs 2.49 or later.'
    default = 'Invalid input. Compare it with the API reference.'


class TagNotSupported(BadRequest):
    error_code = 'tag_not_supported'
    cause = 'The VIF driver of the server cannot tell the guest of a tag.'
    cure = 'Attach without `tag`.'
    default = 'Tags are not supported for this server. Attach without a tag.'


class Unauthorized(RequestError):
    code = 401
    error_code = 'unauthorized'
    cause = 'There was no token, or none that is known.'
    cure = 'Authenticate, and send the token in `X-Auth-Token`.'

    default = 'The request needs a valid token in X-Auth-Token.'


class Forbidden(RequestError):
    code = 403
    error_code = 'forbidden'
    cause = 'The roles of the token do not allow the operation (`os_compute_api:os-attach-interfaces:*`).'
    cure = 'Use a token with the role `member` (or `reader`, to look only), or have the policy changed.'

    default = 'Your roles do not allow this operation.'


class MethodNotAllowed(RequestError):
    """:param allow: the methods that the URL has"""

    code = 405
    error_code = 'method_not_allowed'
    cause = 'The URL does not have this method.'
    cure = 'Use one of those that `Allow` names.'

    def __init__(self, allow: str) -> None:
        super().__init__(f'The method is not allowed here. Allowed: {allow}.')
        self.allow = allow


class VersionNotAcceptable(RequestError):
    """:param version: what was asked for; echoed in the version headers"""

    code = 406
    error_code = 'version_not_acceptable'
    cause = 'The microversion that was asked for is lower or higher than any that is served.'
    cure = 'Ask for one between those of the message, or for `latest`.'

    def __init__(self, version: str, lowest: str, highest: str) -> None:
        super().__init__(
            f'Version {version} is not supported by the API. Minimum is {lowest} and maximum is {highest}.'
        )
        self.version = version


class BodyTooLarge(RequestError):
    code = 413
    error_code = 'body_too_large'
    cause = 'The body is larger than `[api] max_request_body_size`.'
    cure = 'Send a smaller one.'

    def __init__(self, limit: int) -> None:
        super().__init__(f'The body is larger than {limit} bytes. Send a smaller one.')


class UnsupportedMediaType(RequestError):
    code = 415
    error_code = 'unsupported_media_type'
    cause = 'The body is said to be something other than JSON.'
    cure = 'Send `Content-Type: application/json`.'

    default = 'Unsupported Content-Type. Send application/json.'


class Conflict(RequestError):
    """The server or the port is in a state that forbids the operation."""

    code = 409
    error_code = 'conflict'
    cause = 'What was asked for collides with the state of things. The message says how.'
    cure = 'Look again, and do what the message says.'


class ServerLocked(Conflict):
    error_code = 'server_locked'
    cause = 'The server is locked, and the caller may not pass the lock.'
    cure = 'Unlock the server first (`openstack server unlock`), or ask who locked it.'

    def __init__(self, server_id: str) -> None:
        super().__init__(f'Instance {server_id} is locked. Unlock it first.')


class ServerState(Conflict):
    error_code = 'server_state'
    cause = 'The server is not active, paused or stopped, or another task of it is under way.'
    cure = 'Bring the server into one of these states, or wait for the task to end, and try again.'

    def __init__(self, server_id: str, operation: str, state: str) -> None:
        super().__init__(f"Cannot '{operation}' instance {server_id} while it is in {state}.")


class DetachedMeanwhile(Conflict):
    error_code = 'detached_meanwhile'
    cause = 'A detach of the same interface came while it was being attached; the detach has won.'
    cure = 'Nothing is attached. Attach again if that is what is wanted.'
    default = 'The interface was detached while it was being attached.'


class NotAttached(RequestError):
    code = 404
    error_code = 'not_attached'
    cause = 'The server does not have the port, or does not have it yet, or no longer.'
    cure = (
        'List the interfaces of the server. After a detach this answer means that the port can be used elsewhere.'
    )

    def __init__(self, server_id: str, port_id: str) -> None:
        super().__init__(f'Instance {server_id} does not have a port with id {_shown(port_id)}.')


class Busy(Unavailable):
    """The port is in motion, and did not come to rest within the time that a request waits."""

    error_code = 'port_busy'
    cause = 'The port is being attached or detached, and that took longer than a request waits.'
    cure = 'Send the request again after the seconds of `Retry-After`.'

    default = 'The port is being attached or detached at the moment. Try again.'


class UndoPending(Unavailable):
    """An attach failed, and taking it back could not be confirmed yet; it goes on without the caller."""

    error_code = 'undo_pending'
    cause = (
        'The attach failed, and a service that must confirm its undo does not answer. The undo goes on '
        'without the caller.'
    )
    cure = 'Wait: the port can be used again as soon as the undo is confirmed.'

    default = 'The attach failed and is being taken back. Try again when the port is free.'


class LostHold(OsInterfaceError):
    """Somebody else holds the record now: who lost it does nothing more, not even an undo."""

    code = 503
    error_code = 'overtaken'
    cause = 'Another request, or the reconciler, took the port over in the middle of this one.'
    cure = 'Send the request again after the seconds of `Retry-After`.'

    default = 'The request was overtaken by another one. Try again.'
    retry_after = 1
