"""The kernel's links, for drivers that make some: in the namespace where they are, and in a thread of its own.

A namespace is entered by a thread that is made for it and ends with the call, and there only for as long as
it takes: no thread of the caller's is ever anywhere else, and nothing is forked.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import ctypes
import errno
import ipaddress
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError

from os_interface_ext import exceptions

T = TypeVar('T')

#: IN6_ADDR_GEN_MODE_NONE: the host gets no address of its own on a network of the servers.
NO_ADDRESS = {'attrs': [['AF_INET6', {'attrs': [['IFLA_INET6_ADDR_GEN_MODE', 1]]}]]}
#: Bytes that the kernel keeps of an alias.
LONGEST_ALIAS = 255
#: Of the machine, not of the request: the same may be asked again.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EBUSY, errno.EINTR})

_NAMESPACES = '/run/netns'
_CLONE_NEWNET = 0x40000000
_IFF_UP = 0x1
#: IFA_F_NODAD: an address that the network driver has given is nobody else's, and is of use at once.
_NO_DETECTION = 0x02

_libc = ctypes.CDLL(None, use_errno=True)


class NoNamespace(Exception):
    """There is no such namespace."""


def mac_address(digest: str) -> str:
    """A locally administered address that follows from a digest."""
    return ':'.join(['fe', *(digest[at : at + 2] for at in range(0, 10, 2))])


def path_of(name: str) -> str:
    """Where a namespace is: one by its name or its path; of an empty name: the own one of the thread."""
    return os.path.join(_NAMESPACES, name) if name else '/proc/thread-self/ns/net'


def apart(what: str, work: Callable[[], T]) -> T:
    """Do it in a thread of its own, to its end.

    :param what: what the thread and the error are called
    :raises Unavailable: there cannot be one more thread
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name=what)
    try:
        thread.start()
    except RuntimeError as error:
        raise exceptions.Unavailable(operator=f'{what}: {error}') from error
    thread.join()
    return future.result()


class Links:
    """The links of one namespace.

    :param fd: the namespace, of which the socket is too
    :param begin: called before each change; may raise, and then nothing is changed
    """

    def __init__(self, ip: IPRoute, fd: int, begin: Callable[[], object]) -> None:
        self.fd = fd
        self.begin = begin
        self._ip = ip

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Within it the thread is in the namespace: for what is not asked over netlink."""
        with _within(self.fd):
            yield

    def all(self) -> list[Any]:
        return self.dump(self._ip.link)

    def of_kind(self, kind: str) -> list[Any]:
        # The kernel itself chooses: there may be very many, and to decode one takes as long as to make it.
        info = {'attrs': [['IFLA_INFO_KIND', kind]]}
        return self.dump(self._ip.link, IFLA_LINKINFO=info, dump_filter=_any)

    def ports(self, bridge: Any) -> list[Any]:
        return self.dump(self._ip.link, master=bridge['index'], dump_filter=_any)

    def find(self, name: str) -> Any:
        """One by its name; None if there is none."""
        return next(iter(self._get(ifname=name)), None)

    def get(self, index: int) -> list[Any]:
        """One by its index; none if there is none."""
        return self._get(index=index)

    def _get(self, **which: Any) -> list[Any]:
        try:
            return list(self._ip.link('get', **which))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return []
            raise

    def addresses(self, link: Any) -> set[str]:
        """With the lengths of their prefixes."""
        found = self.dump(self._ip.addr, index=link['index'])
        pairs = ((one.get('local') or one.get('address'), one['prefixlen']) for one in found)
        return {str(ipaddress.ip_interface(f'{address}/{length}')) for address, length in pairs}

    def dump(self, what: Callable[..., Any], /, **filters: Any) -> list[Any]:
        """All that the kernel tells of something, as it was at one time."""
        while True:
            found = list(what('dump', **filters))
            # Something has changed under it: it may be told twice, or not at all.
            if not any(one['header']['flags'] & NLM_F_DUMP_INTR for one in found):
                return found

    def change(self, command: str, **attributes: Any) -> None:
        """Make, set or delete a link; to delete one that is gone is fine."""
        self.begin()
        try:
            self._ip.link(command, **attributes)
        except NetlinkError as error:
            if command != 'del' or error.code != errno.ENODEV:
                raise

    def adapt(self, link: Any, *, state: str | None = None, **wanted: Any) -> None:
        """Set what is not as it is wanted; None: whatever it is."""
        differing = {
            name: value for name, value in wanted.items() if value is not None and link.get(name) != value
        }
        if state == 'up' and not link['flags'] & _IFF_UP:
            differing['state'] = state
        if differing:
            self.change('set', index=link['index'], **differing)

    def add_address(self, link: Any, address: str) -> None:
        one = ipaddress.ip_interface(address)
        more: dict[str, Any] = {'flags': _NO_DETECTION} if one.version == 6 else {}
        if one.version == 4 and one.network.prefixlen < 31:
            more['broadcast'] = str(one.network.broadcast_address)
        self.begin()
        self._ip.addr('add', index=link['index'], address=str(one.ip), prefixlen=one.network.prefixlen, **more)


@contextlib.contextmanager
def opened(path: str, begin: Callable[[], object]) -> Iterator[Links]:
    """The links of a namespace. To be called in a thread that may end if it cannot come back.

    :param begin: see Links
    :raises NoNamespace: it is not there
    :raises Unavailable: this process cannot enter it, or not now
    """
    with contextlib.ExitStack() as stack:
        try:
            links = _open(stack, path, begin)
        except OSError as error:
            raise exceptions.Unavailable(operator=f'{path} cannot be entered: {error}') from error
        yield links


def _open(stack: contextlib.ExitStack, path: str, begin: Callable[[], object]) -> Links:
    there = stack.enter_context(_file(path))
    try:
        with _within(there):
            # It stays in the namespace in which it was made.
            return Links(stack.enter_context(IPRoute()), there, begin)
    except OSError as error:
        if error.errno == errno.EINVAL:
            # What the mount of a namespace leaves behind is an empty file.
            raise NoNamespace(f'{path} is no namespace') from error
        raise


@contextlib.contextmanager
def _within(fd: int) -> Iterator[None]:
    """Within it the thread is in a namespace, and then in its own again."""
    with _file(path_of('')) as own:
        if os.path.sameopenfile(own, fd):
            # To enter the own one takes CAP_SYS_ADMIN all the same.
            yield
            return
        _enter(fd)
        try:
            yield
        finally:
            _enter(own)


@contextlib.contextmanager
def _file(path: str) -> Iterator[int]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise NoNamespace(f'{path!r} is not there') from error
    try:
        yield fd
    finally:
        os.close(fd)


def _enter(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _any(link: Any) -> bool:
    """What the kernel has chosen is not chosen from again."""
    return True
