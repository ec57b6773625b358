"""The errors of this project, those that drivers may raise included: one hierarchy.

Every error has two audiences. ``message`` is what the caller of the API reads: it says what to do and
carries nothing internal. ``operator`` is what goes to the log. ``code`` is the HTTP status that the API
answers with; a driver never needs to know it.
"""


class OsInterfaceError(Exception):
    """Root of all errors of this project.

    :param message: text for the caller of the API; a class has a default
    :param operator: text for the operator's log alone; the message if not given
    """

    code = 500
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


class Unavailable(DriverError):
    """The backend did not answer, and nothing happened: the call may be made again.

    :param retry_after: seconds after which it is worth trying again
    """

    code = 503
    default = 'A backend of this service does not answer at the moment. Try again later.'

    def __init__(self, message: str | None = None, *, operator: str | None = None, retry_after: int = 5) -> None:
        super().__init__(message, operator=operator)
        self.retry_after = retry_after


class UnknownOutcome(Unavailable):
    """The call may have had its effect, or not: to be settled by reading or by asking again."""

    default = 'A backend of this service did not confirm the request. Look again before you repeat it.'


class NotSupported(DriverError):
    """The backend cannot do what was asked."""

    code = 501
    default = 'This is not supported here.'


class CallerRefused(DriverError):
    """The backend itself does not allow this to the caller."""

    code = 403
    default = 'A service behind this one does not allow this to you. Ask the owner of the network.'


class TokenRefused(DriverError):
    """The backend does not accept the caller's token any more."""

    code = 401
    default = 'The token is not valid any more. Authenticate again.'


class NotFound(DriverError):
    code = 404


class ServerNotFound(NotFound):
    def __init__(self, server_id: str, *, operator: str | None = None) -> None:
        super().__init__(f'Instance {_shown(server_id)} could not be found.', operator=operator)


class PortNotFound(NotFound):
    def __init__(self, port_id: str, *, operator: str | None = None) -> None:
        super().__init__(f'Port id {_shown(port_id)} could not be found.', operator=operator)


class NetworkNotFound(NotFound):
    def __init__(self, network_id: str, *, operator: str | None = None) -> None:
        super().__init__(f'Network {_shown(network_id)} could not be found.', operator=operator)


class NetworkAmbiguous(DriverError):
    code = 400
    default = 'More than one network is possible. Name one with net_id.'


class NetworkNotUsable(DriverError):
    """The network exists and is visible, but a port cannot be made on it for this server."""

    code = 400
    default = 'The network cannot be used for this server. Choose another one.'


class NetworkForbidden(NetworkNotUsable):
    """The network is not for callers of this kind (an external network, for a member)."""

    code = 403
    default = 'It is not allowed to attach to an external network. Ask an administrator.'


class QuotaExceeded(DriverError):
    code = 403
    default = 'The quota of ports of this project is used up. Delete a port, or ask for a larger quota.'


class NoAddress(DriverError):
    code = 400
    default = 'No address is left on the network. Detach a port of it, or choose another network.'


class AddressInUse(DriverError):
    code = 409

    def __init__(self, address: str, *, operator: str | None = None) -> None:
        super().__init__(f'Fixed IP address {address} is already in use. Choose another one.', operator=operator)


class AddressInvalid(DriverError):
    """The address is not one that the network gives to a port."""

    code = 400

    def __init__(self, address: str, *, operator: str | None = None) -> None:
        super().__init__(
            f'Fixed IP address {address} is not a valid address for a port of the network. '
            'Choose one within a subnet of it.',
            operator=operator,
        )


class PortNotUsable(DriverError):
    """The port exists, but is not one for this server (another project's, a kind that cannot be plugged)."""

    code = 400

    def __init__(self, port_id: str, why: str | None = None, *, operator: str | None = None) -> None:
        super().__init__(
            f'Port {port_id} is not usable for this server{": " + why if why else ""}. Choose another port.',
            operator=operator,
        )


class PortInUse(DriverError):
    """The port is bound to another device."""

    code = 409

    def __init__(self, port_id: str, *, operator: str | None = None) -> None:
        super().__init__(f'Port {port_id} is still in use. Detach it first.', operator=operator)


class NotOurs(DriverError):
    """The port does not carry the mark that the caller named: it is left alone."""

    default = 'The port was not made by this service and is left alone.'


class BindingFailed(DriverError):
    """The network backend could not bind the port to the server's host."""

    default = 'The port could not be bound on the host of the server; nothing was attached.'


class PlugFailed(DriverError):
    """The NIC could not be plugged; what was half made has been taken back by the driver."""

    default = 'The interface could not be plugged into the server; nothing was attached.'


class InProgress(DriverError):
    """The NIC is on its way out, but not gone yet: to be asked again. Never an answer of the API."""

    default = 'The interface is still being taken out of the server.'


class DeadlinePassed(Unavailable):
    """The fence forbids to begin a side effect: the time of its holder is over."""

    default = 'The request took too long and was given up. Try again.'


# ------------------------------------------------------------------ what the API itself raises


class RequestError(OsInterfaceError):
    """Root of the answers of our own to a request."""


class BadRequest(RequestError):
    code = 400


class Unauthorized(RequestError):
    code = 401
    default = 'The request needs a valid token in X-Auth-Token.'


class Forbidden(RequestError):
    code = 403
    default = 'Your roles do not allow this operation.'


class MethodNotAllowed(RequestError):
    """:param allow: the methods that the URL has"""

    code = 405

    def __init__(self, allow: str) -> None:
        super().__init__(f'The method is not allowed here. Allowed: {allow}.')
        self.allow = allow


class VersionNotAcceptable(RequestError):
    """:param version: what was asked for; echoed in the version headers"""

    code = 406

    def __init__(self, version: str, lowest: str, highest: str) -> None:
        super().__init__(
            f'Version {version} is not supported by the API. Minimum is {lowest} and maximum is {highest}.'
        )
        self.version = version


class BodyTooLarge(RequestError):
    code = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f'The body is larger than {limit} bytes. Send a smaller one.')


class UnsupportedMediaType(RequestError):
    code = 415
    default = 'Unsupported Content-Type. Send application/json.'


class Conflict(RequestError):
    """The server or the port is in a state that forbids the operation."""

    code = 409


class NotAttached(RequestError):
    code = 404

    def __init__(self, server_id: str, port_id: str) -> None:
        super().__init__(f'Instance {server_id} does not have a port with id {_shown(port_id)}.')


class Busy(Unavailable):
    """The port is in motion, and did not come to rest within the time that a request waits."""

    default = 'The port is being attached or detached at the moment. Try again.'


class UndoPending(Unavailable):
    """An attach failed, and taking it back could not be confirmed yet; it goes on without the caller."""

    default = 'The attach failed and is being taken back. Try again when the port is free.'


class LostHold(OsInterfaceError):
    """Somebody else holds the record now: who lost it does nothing more, not even an undo."""

    code = 503
    default = 'The request was overtaken by another one. Try again.'
    retry_after = 1
