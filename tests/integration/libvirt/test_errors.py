"""What libvirt's errors come to mean, with a connection that answers as it is told; no libvirtd is started."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any
from xml.etree import ElementTree

import pytest

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.conf import libvirt as libvirt_options
from os_interface_ext.drivers import base
from os_interface_ext.testing import contract
from tests.integration.vifs.plugging import plug, plugged, unplug
from tests.services import databases
from tests.services.libvirt import library

from .conftest import make_port, metadata

pytestmark = pytest.mark.service

SERVER = base.Server(str(uuid.uuid4()), 'project-a')
LIVE, CONFIG = 1, 2
NO_SUPPORT, AUTH_FAILED, NO_DOMAIN, OPERATION_INVALID, CONFIG_UNSUPPORTED = 3, 45, 42, 55, 67
INTERNAL, SYSTEM, OPERATION_TIMEOUT, OPERATION_UNSUPPORTED, ACCESS_DENIED = 1, 38, 68, 84, 88
FROM_QEMU, FROM_RPC, FROM_REMOTE = 10, 7, 13


@pytest.fixture(scope='module', autouse=True)
def _library() -> None:
    try:
        library.ensure()
    except databases.Unobtainable as error:
        pytest.skip(str(error))


def error(code: int, text: str = 'it says no', domain: int = FROM_QEMU) -> Exception:
    """An error as libvirt raises it."""
    import libvirt

    made = libvirt.libvirtError(text)
    made.err = (code, domain, text, 2, None, None, None, -1, -1)
    return made  # type: ignore[no-any-return]


class Domain:
    """One that does what it is told, unless something is told to happen before it."""

    def __init__(self) -> None:
        self.nics: dict[int, list[str]] = {LIVE: [], CONFIG: []}
        self.is_active = True
        #: what it takes out at once
        self.gives_back = True
        #: Called before each change, with its flags.
        self.before: Callable[[int], None] = lambda flags: None
        #: Called when it is to be written down.
        self.at_metadata: Callable[[], None] = lambda: None
        #: what libvirt itself does with it
        self.job: dict[str, Any] = {'type': 0}
        self._told = ''
        self._state = (1, 1)

    def describe(self, told: str, state: tuple[int, int] = (1, 1)) -> None:
        """Have these metadata, and this state."""
        self._told = f'<name>fake</name><metadata>{told}</metadata>'
        self._state = state

    def state(self) -> tuple[int, int]:
        return self._state

    def setMetadata(self, *_: Any) -> None:
        """Changes nothing of its own."""
        self.at_metadata()

    def jobStats(self) -> dict[str, Any]:
        return self.job

    def UUIDString(self) -> str:
        return SERVER.id

    def isActive(self) -> bool:
        return self.is_active

    def isPersistent(self) -> bool:
        return True

    def hasManagedSaveImage(self, flags: int) -> bool:
        return False

    def name(self) -> str:
        return 'fake'

    def XMLDesc(self, flags: int) -> str:
        nics = self.nics[CONFIG if flags else LIVE]
        return f'<domain>{self._told}<devices>{"".join(nics)}</devices></domain>'

    def _places(self, flags: int) -> list[int]:
        return [place for place in (LIVE, CONFIG) if flags & place]

    def attachDeviceFlags(self, description: str, flags: int) -> None:
        self.before(flags)
        for place in self._places(flags):
            self.nics[place].append(description)

    def detachDeviceAlias(self, alias: str, flags: int) -> None:
        self.before(flags)
        for place in self._places(flags):
            if not any(alias in nic for nic in self.nics[place]):
                raise error(INTERNAL, f'no device found with alias {alias}')
            if place == CONFIG or self.gives_back:
                self.nics[place] = [nic for nic in self.nics[place] if alias not in nic]


class Connection:
    def __init__(self, domain: Domain) -> None:
        self.domain = domain
        #: Called at each look-up.
        self.before: Callable[[], None] = lambda: None

    def getType(self) -> str:
        return 'QEMU'

    def getHostname(self) -> str:
        return 'host-1'

    def lookupByUUIDString(self, server_id: str) -> Domain:
        self.before()
        if server_id != SERVER.id:
            raise error(NO_DOMAIN)
        return self.domain


@pytest.fixture
def domain() -> Domain:
    return Domain()


@pytest.fixture
def connection(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> Connection:
    import libvirt

    made = Connection(domain)
    monkeypatch.setattr(libvirt, 'open', lambda uri: made)
    return made


@pytest.fixture
def driver(connection: Connection) -> base.VIFDriver:
    return make_driver()


def make_driver(**options: Any) -> base.VIFDriver:
    from os_interface_ext.drivers.vifs import libvirt as vifs

    conf = config.new([])
    libvirt_options.register_opts(conf)
    for name, value in {'linux_bridges': {'*': 'br'}, 'unplug_wait': 0.2, 'unplug_repeat': 0.1, **options}.items():
        conf.set_override(name, value, group='libvirt')
    return vifs.LibvirtVIFDriver(conf)


def raising(*errors: Exception | None) -> Callable[..., None]:
    """One after the other; the last one again and again."""
    left = list(errors)

    def happen(*_: Any) -> None:
        happens = left.pop(0) if len(left) > 1 else left[0]
        if happens is not None:
            raise happens

    return happen


# ---------------------------------------------------------------------- plug


@pytest.mark.parametrize(
    ('code', 'origin', 'expected'),
    [
        (INTERNAL, FROM_QEMU, exceptions.PlugFailed),
        (OPERATION_INVALID, FROM_QEMU, exceptions.PlugFailed),
        (CONFIG_UNSUPPORTED, FROM_QEMU, exceptions.PlugFailed),
        (SYSTEM, FROM_QEMU, exceptions.PlugFailed),
        (NO_DOMAIN, FROM_QEMU, exceptions.PlugFailed),
        (NO_SUPPORT, FROM_QEMU, exceptions.NotSupported),
        (OPERATION_UNSUPPORTED, FROM_QEMU, exceptions.NotSupported),
        (OPERATION_TIMEOUT, FROM_QEMU, exceptions.Unavailable),
        (SYSTEM, FROM_RPC, exceptions.UnknownOutcome),
        (INTERNAL, FROM_RPC, exceptions.UnknownOutcome),
        (SYSTEM, FROM_REMOTE, exceptions.UnknownOutcome),
    ],
)
def test_an_error_of_attach(
    driver: base.VIFDriver, domain: Domain, code: int, origin: int, expected: type[Exception]
) -> None:
    domain.before = raising(error(code, domain=origin))
    with pytest.raises(exceptions.DriverError) as raised:
        plug(driver, SERVER, make_port(SERVER))
    assert type(raised.value) is expected
    assert domain.nics == {LIVE: [], CONFIG: []}
    # What libvirt says is for the log alone.
    assert 'it says no' not in raised.value.message
    assert 'it says no' in str(raised.value) or code == NO_DOMAIN


def test_somebody_else_was_quicker(driver: base.VIFDriver, domain: Domain) -> None:
    port = make_port(SERVER)

    def plugged_by_another(flags: int) -> None:
        domain.before = lambda _: None
        domain.attachDeviceFlags(nic(port), flags)
        raise error(CONFIG_UNSUPPORTED, 'non unique alias detected')

    domain.before = plugged_by_another
    plug(driver, SERVER, port)
    assert [len(nics) for nics in domain.nics.values()] == [1, 1]


def nic(port: base.Port) -> str:
    return f'<interface><mac address="{port.mac_address}"/><alias name="ua-{port.id}"/></interface>'


def test_a_domain_that_starts_meanwhile(driver: base.VIFDriver, domain: Domain) -> None:
    """It was shut off when it was looked at: it gets its NIC in both places all the same."""
    domain.is_active = False

    def start(flags: int) -> None:
        domain.before = lambda _: None
        domain.is_active = True

    domain.before = start
    plug(driver, SERVER, make_port(SERVER))
    assert [len(nics) for nics in domain.nics.values()] == [1, 1]


@pytest.mark.parametrize('gives_back', [True, False])
def test_half_of_a_plug_fails(driver: base.VIFDriver, domain: Domain, gives_back: bool) -> None:
    port = make_port(SERVER)

    def plug_one_half(flags: int) -> None:
        domain.before = raising(error(INTERNAL, 'cannot write'), None)
        domain.nics[LIVE].append(nic(port))
        domain.gives_back = gives_back
        raise error(INTERNAL, 'cannot write')

    domain.before = plug_one_half
    with pytest.raises(exceptions.PlugFailed if gives_back else exceptions.UnknownOutcome):
        plug(driver, SERVER, port)
    assert len(domain.nics[LIVE]) == (0 if gives_back else 1)
    assert domain.nics[CONFIG] == []


def test_a_nic_of_ours_with_another_mac_address(driver: base.VIFDriver, domain: Domain) -> None:
    port = make_port(SERVER)
    domain.nics[LIVE].append(nic(make_port(SERVER, id=port.id)))
    with pytest.raises(exceptions.PlugFailed):
        plug(driver, SERVER, port)
    assert domain.nics[CONFIG] == []


def test_nothing_of_a_port_is_read_as_xml(driver: base.VIFDriver, domain: Domain) -> None:
    plug(driver, SERVER, make_port(SERVER, mac_address='"/><x y="'))
    root = ElementTree.fromstring(domain.nics[LIVE][0])
    assert [one.tag for one in root.iter('x')] == []
    assert '<x' not in domain.nics[LIVE][0]


# ---------------------------------------------------------------------- unplug


@pytest.mark.parametrize(
    ('code', 'origin', 'text', 'expected'),
    [
        (INTERNAL, FROM_QEMU, 'Device x is already in the process of unplug', exceptions.InProgress),
        (OPERATION_INVALID, FROM_QEMU, 'any other', exceptions.InProgress),
        (INTERNAL, FROM_QEMU, "Bus 'pcie.0' does not support hotplugging", exceptions.NotSupported),
        (NO_SUPPORT, FROM_QEMU, 'no', exceptions.NotSupported),
        (OPERATION_TIMEOUT, FROM_QEMU, 'cannot acquire state change lock', exceptions.Unavailable),
        (SYSTEM, FROM_RPC, 'Broken pipe', exceptions.UnknownOutcome),
    ],
)
def test_an_error_of_detach(
    driver: base.VIFDriver, domain: Domain, code: int, origin: int, text: str, expected: type[Exception]
) -> None:
    port = make_port(SERVER)
    plug(driver, SERVER, port)
    domain.before = raising(error(code, text, origin))
    with pytest.raises(exceptions.DriverError) as raised:
        unplug(driver, SERVER, port.id)
    assert type(raised.value) is expected
    assert text in str(raised.value)
    assert plugged(driver, SERVER) == {port.id}


def test_what_is_in_progress_is_no_error(driver: base.VIFDriver, domain: Domain) -> None:
    port = make_port(SERVER)
    plug(driver, SERVER, port)
    domain.before = raising(error(INTERNAL, 'is already in the process of unplug'), None)
    unplug(driver, SERVER, port.id)
    assert domain.nics == {LIVE: [], CONFIG: []}


def test_the_deadline_passes_while_the_guest_is_waited_for(domain: Domain, connection: Connection) -> None:
    driver = make_driver(unplug_wait=60.0)
    port = make_port(SERVER)
    plug(driver, SERVER, port)
    domain.gives_back = False
    fence = base.Fence(1, base.time.monotonic() + 0.3)
    with pytest.raises((exceptions.InProgress, exceptions.DeadlinePassed)):
        driver.unplug(contract.member(SERVER), SERVER, port.id, {}, fence)
    assert fence.remaining() == 0.0


# ---------------------------------------------------------------------- connections


def test_libvirtd_refuses_us(driver: base.VIFDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    import libvirt

    for code in (AUTH_FAILED, SYSTEM):
        monkeypatch.setattr(libvirt, 'open', raising(error(code, domain=FROM_RPC)))
        with pytest.raises(exceptions.Unavailable, match='it says no'):
            plugged(driver, SERVER)
        with pytest.raises(exceptions.Unavailable, match='it says no'):
            unplug(driver, SERVER, str(uuid.uuid4()))


def test_we_may_not_see_the_domain(driver: base.VIFDriver, connection: Connection) -> None:
    connection.before = raising(error(ACCESS_DENIED))
    for call in (
        lambda: plugged(driver, SERVER),
        lambda: plug(driver, SERVER, make_port(SERVER)),
        lambda: unplug(driver, SERVER, str(uuid.uuid4())),
    ):
        with pytest.raises(exceptions.Unavailable, match='it says no'):
            call()


def test_a_connection_that_has_broken_is_opened_again(driver: base.VIFDriver, connection: Connection) -> None:
    broken = error(SYSTEM, 'Broken pipe', FROM_RPC)
    port = make_port(SERVER)
    for call in (
        lambda: plug(driver, SERVER, port),
        lambda: plugged(driver, SERVER),
        lambda: unplug(driver, SERVER, port.id),
    ):
        connection.before = raising(broken, None)
        call()
    connection.before = raising(broken)
    with pytest.raises(exceptions.Unavailable) as raised:
        unplug(driver, SERVER, port.id)
    # It has not come to a change.
    assert type(raised.value) is exceptions.Unavailable


def test_what_was_given_up_is_not_done_later(domain: Domain, connection: Connection) -> None:
    """It hangs before the change: by the time it goes on, nobody knows that it does."""
    driver = make_driver(call_timeout=0.2)
    go_on, looks = threading.Event(), iter(range(100))

    def hang() -> None:
        # At the second look-up: the first one is for reading.
        if next(looks) == 1:
            go_on.wait(20)

    connection.before = hang
    with pytest.raises(exceptions.Unavailable) as raised:
        plug(driver, SERVER, make_port(SERVER))
    assert type(raised.value) is exceptions.Unavailable
    go_on.set()
    with ended('libvirt'):
        assert domain.nics == {LIVE: [], CONFIG: []}


def test_a_change_that_hangs(domain: Domain, connection: Connection) -> None:
    driver = make_driver(call_timeout=0.2)
    go_on = threading.Event()
    domain.before = lambda flags: go_on.wait(20) and None
    with pytest.raises(exceptions.UnknownOutcome):
        plug(driver, SERVER, make_port(SERVER))
    go_on.set()
    with ended('libvirt'):
        assert len(domain.nics[LIVE]) == 1


def test_calls_do_not_pile_up(connection: Connection) -> None:
    driver = make_driver(call_timeout=0.1)
    go_on = threading.Event()
    connection.before = lambda: go_on.wait(20) and None
    before = threading.active_count()
    for _ in range(40):
        with pytest.raises(exceptions.Unavailable):
            plugged(driver, SERVER)
    assert threading.active_count() <= before + 32
    go_on.set()
    with ended('libvirt'):
        connection.before = lambda: None
        assert plugged(driver, SERVER) == set()


def test_a_connection_has_one_call_at_a_time(domain: Domain, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt does not always send a second one before the first is answered."""
    import libvirt

    all_are_there = threading.Barrier(10)
    made: list[Connection] = []

    def connect(uri: str) -> Connection:
        made.append(Connection(domain))
        made[-1].before = lambda: all_are_there.wait(20) and None
        return made[-1]

    monkeypatch.setattr(libvirt, 'open', connect)
    driver = make_driver()
    assert contract.at_once(*[lambda: plugged(driver, SERVER)] * 10) == [set()] * 10
    assert len(made) == 10
    for one in made:
        one.before = lambda: None
    # Some of them are kept.
    for _ in range(3):
        assert plugged(driver, SERVER) == set()
    assert len(made) == 10


def test_an_opening_that_never_ends(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    import libvirt

    go_on, opened = threading.Event(), iter(range(100))

    def open_at_last(uri: str) -> Connection:
        if next(opened) == 0:
            go_on.wait(20)
        return connection

    monkeypatch.setattr(libvirt, 'open', open_at_last)
    driver = make_driver(call_timeout=0.2)
    with pytest.raises(exceptions.Unavailable):
        plugged(driver, SERVER)
    assert plugged(driver, SERVER) == set()
    go_on.set()
    with ended('libvirt'):
        assert plugged(driver, SERVER) == set()


def test_calls_that_never_end_are_not_waited_for_for_ever(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from os_interface_ext.drivers import libvirt_connection

    driver = make_driver(call_timeout=0.3)
    go_on = threading.Event()
    connection.before = lambda: go_on.wait(60) and None
    answers = contract.at_once(*[lambda: plugged(driver, SERVER)] * 32)
    assert {type(answer) for answer in answers} == {exceptions.Unavailable}
    connection.before = lambda: None
    with pytest.raises(exceptions.Unavailable, match='none of 32 calls'):
        plugged(driver, SERVER)
    monkeypatch.setattr(libvirt_connection, '_TRY', 0.0)
    assert plugged(driver, SERVER) == set()
    # It has answered: there is room for all again.
    monkeypatch.setattr(libvirt_connection, '_TRY', 1000.0)
    assert plugged(driver, SERVER) == set()
    go_on.set()
    with ended('libvirt'):
        assert plugged(driver, SERVER) == set()


# ---------------------------------------------------------------------- a plug that was given up


def given_up(domain: Domain, driver: base.VIFDriver, port: base.Port) -> threading.Event:
    """Plug a port, to no end; the plug goes on when the event is set."""
    go_on = threading.Event()

    def hang(flags: int) -> None:
        domain.before = lambda flags: None
        go_on.wait(20)

    domain.before = hang
    with pytest.raises(exceptions.UnknownOutcome):
        plug(driver, SERVER, port)
    return go_on


def test_absence_is_not_believed_while_a_plug_is_pending(domain: Domain, connection: Connection) -> None:
    driver, port = make_driver(call_timeout=0.2), make_port(SERVER)
    go_on = given_up(domain, driver, port)
    for _ in range(2):
        with pytest.raises(exceptions.InProgress):
            unplug(driver, SERVER, port.id)
    # Of another port's NIC nothing is pending.
    unplug(driver, SERVER, str(uuid.uuid4()))
    go_on.set()
    with ended('libvirt'):
        assert [len(nics) for nics in domain.nics.values()] == [1, 1]
    unplug(driver, SERVER, port.id)
    assert domain.nics == {LIVE: [], CONFIG: []}


def test_a_plug_that_was_refused_at_last(domain: Domain, connection: Connection) -> None:
    driver, port = make_driver(call_timeout=0.2), make_port(SERVER)

    def refuse(description: str, flags: int) -> None:
        domain.before(flags)
        raise error(OPERATION_TIMEOUT)

    domain.attachDeviceFlags = refuse  # type: ignore[method-assign]
    go_on = given_up(domain, driver, port)
    go_on.set()
    with ended('libvirt'):
        unplug(driver, SERVER, port.id)


def test_a_plug_whose_connection_ends_while_it_is_pending(
    domain: Domain, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt may be at it for as long as it has a change wait."""
    from os_interface_ext.drivers import libvirt_connection

    driver, port = make_driver(call_timeout=0.2), make_port(SERVER)

    def break_off(description: str, flags: int) -> None:
        domain.before(flags)
        raise error(SYSTEM, domain=FROM_RPC)

    domain.attachDeviceFlags = break_off  # type: ignore[method-assign]
    go_on = given_up(domain, driver, port)
    go_on.set()
    monkeypatch.setattr(libvirt_connection, '_CHANGE_WAITS', 1000.0)
    with ended('libvirt'), pytest.raises(exceptions.InProgress):
        unplug(driver, SERVER, port.id)
    monkeypatch.setattr(libvirt_connection, '_CHANGE_WAITS', 0.0)
    unplug(driver, SERVER, port.id)


def test_a_plug_of_another_process_that_comes_late(driver: base.VIFDriver, domain: Domain) -> None:
    """Right when its NIC was found to be absent."""
    port = make_port(SERVER)

    def come() -> None:
        domain.at_metadata = lambda: None
        domain.attachDeviceFlags(nic(port), LIVE | CONFIG)

    domain.at_metadata = come
    unplug(driver, SERVER, port.id)
    assert domain.nics == {LIVE: [], CONFIG: []}


@pytest.mark.parametrize(('operation', 'waits'), [(5, True), (3, True), (9, False)])
def test_libvirt_itself_is_at_it(driver: base.VIFDriver, domain: Domain, operation: int, waits: bool) -> None:
    """A migration and a save let nothing come or go; a backup does."""
    port, other = make_port(SERVER), make_port(SERVER)
    plug(driver, SERVER, port)
    domain.job = {'type': 2, 'operation': operation}
    for call in (lambda: plug(driver, SERVER, other), lambda: unplug(driver, SERVER, port.id)):
        if waits:
            with pytest.raises(exceptions.Unavailable) as raised:
                call()
            assert type(raised.value) is exceptions.Unavailable
        else:
            call()
    assert plugged(driver, SERVER) == ({port.id} if waits else {other.id})


@contextlib.contextmanager
def ended(name: str) -> Iterator[None]:
    """All threads of that name have ended."""
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join(20)
    yield


# ---------------------------------------------------------------------- servers


NOVA = (
    '<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>web-1</nova:name>'
    '<nova:owner><nova:user uuid="u">user</nova:user><nova:project uuid="p-nova">demo</nova:project></nova:owner>'
    '</nova:instance>'
)


@pytest.mark.parametrize(
    ('told', 'options', 'expected'),
    [
        (metadata('p-1'), {}, ('p-1', 'fake')),
        (metadata('p-1') + NOVA, {'project_id': 'p-2'}, ('p-1', 'web-1')),
        (NOVA, {'project_id': 'p-2'}, ('p-nova', 'web-1')),
        (NOVA.replace('1.1', '1.0'), {}, ('p-nova', 'web-1')),
        ('', {'project_id': 'p-2'}, ('p-2', 'fake')),
        (metadata(''), {'project_id': 'p-2'}, ('p-2', 'fake')),
        ('', {}, None),
        (metadata(''), {}, None),
    ],
)
def test_the_project_and_name_of_a_domain(
    connection: Connection, domain: Domain, told: str, options: dict[str, str], expected: tuple[str, str] | None
) -> None:
    driver = make_servers(**options)
    domain.describe(told)
    if expected is None:
        with pytest.raises(exceptions.ServerNotFound):
            driver.get(contract.member(SERVER), SERVER.id)
    else:
        server = driver.get(contract.member(SERVER), SERVER.id)
        assert (server.project_id, server.name) == expected


def test_the_host_may_be_named(connection: Connection, domain: Domain) -> None:
    domain.describe(metadata('p-1'))
    assert make_servers().get(contract.member(SERVER), SERVER.id).host == 'host-1'
    assert make_servers(host='compute-7').get(contract.member(SERVER), SERVER.id.upper()).host == 'compute-7'


@pytest.mark.parametrize(
    ('state', 'expected'),
    [
        ((1, 1), ('active', None)),
        ((3, 1), ('paused', None)),
        ((3, 2), ('paused', 'migrating')),
        ((4, 1), ('active', None)),
        ((5, 1), ('stopped', None)),
        ((6, 1), ('error', None)),
        ((7, 0), ('suspended', None)),
        ((99, 0), ('error', None)),
    ],
)
def test_states(
    connection: Connection, domain: Domain, state: tuple[int, int], expected: tuple[str, str | None]
) -> None:
    domain.describe(metadata('p-1'), state)
    server = make_servers().get(contract.member(SERVER), SERVER.id)
    assert (server.vm_state, server.task_state) == expected


def make_servers(**options: str) -> base.ServerDriver:
    from os_interface_ext.drivers.servers import libvirt as servers

    conf = config.new([])
    libvirt_options.register_opts(conf)
    for name, value in options.items():
        conf.set_override(name, value, group='libvirt')
    return servers.LibvirtServerDriver(conf)
