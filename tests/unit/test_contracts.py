"""The contract suites: drivers that keep the promises pass, drivers that break one fail."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from typing import Any

import pytest

from os_interface_ext import conf, exceptions
from os_interface_ext.drivers import base
from os_interface_ext.drivers.vifs import noop
from os_interface_ext.testing import memory, networks, servers, vifs
from tests.unit.fakes import SQLWorld, cloud_of, network_backend, server_backend, vif_backend

pytest_plugins = ['pytester']


# ---------------------------------------------------------------------- drivers that keep them


class TestMemoryServers(servers.ServerDriverContract):
    @pytest.fixture
    def backend(self) -> servers.ServerBackend:
        return server_backend(cloud_of(memory.MemoryCloud))


class TestMemoryNetworks(networks.NetworkDriverContract):
    @pytest.fixture
    def backend(self) -> networks.NetworkBackend:
        return network_backend(cloud_of(memory.MemoryCloud))


class TestMemoryVIFs(vifs.VIFDriverContract):
    @pytest.fixture
    def backend(self) -> vifs.VIFBackend:
        return vif_backend(cloud_of(memory.MemoryCloud))


class TestMemoryVIFsThatTakeTheirTime(vifs.VIFDriverContract):
    @pytest.fixture
    def backend(self) -> vifs.VIFBackend:
        return vif_backend(cloud_of(memory.MemoryCloud, unplug_asks=3))


class TestNoopVIFs(vifs.VIFDriverContract):
    @pytest.fixture
    def backend(self) -> vifs.VIFBackend:
        return vif_backend(cloud_of(memory.MemoryCloud), noop.NoopVIFDriver(conf.new([])))


class MinimalNetworks(base.NetworkDriver):
    """Overrides nothing that is optional."""

    def __init__(self, cloud: memory.MemoryCloud) -> None:
        self.list_ports = cloud.list_ports
        self.get_port = cloud.get_port
        self.create = cloud.create
        self.claim = cloud.claim
        self.unbind = cloud.unbind
        self.delete = cloud.delete

    list_ports = get_port = create = claim = unbind = delete = None


class TestMinimalNetworks(networks.NetworkDriverContract):
    @pytest.fixture
    def backend(self) -> networks.NetworkBackend:
        cloud = cloud_of(memory.MemoryCloud)
        return dataclasses.replace(network_backend(cloud), driver=MinimalNetworks(cloud), read=None)


@pytest.fixture(scope='module')
def sql_world(tmp_path_factory: pytest.TempPathFactory) -> SQLWorld:
    return SQLWorld(f'sqlite:///{tmp_path_factory.mktemp("sql")}/inventory.sqlite')


class TestSQLServers(servers.ServerDriverContract):
    @pytest.fixture
    def backend(self, sql_world: SQLWorld) -> servers.ServerBackend:
        return sql_world.server_backend()


class TestSQLNetworks(networks.NetworkDriverContract):
    @pytest.fixture
    def backend(self, sql_world: SQLWorld) -> networks.NetworkBackend:
        return sql_world.network_backend()


# ---------------------------------------------------------------------- drivers that break one


class Sabotage:
    """The broken drivers, each with the tests that must find it out."""

    cases: list[Any] = []

    @classmethod
    def found_by(cls, *tests: str, options: dict[str, Any] | None = None, **arguments: Any) -> Any:
        """:param arguments: those of the tests, where they are parametrized"""

        def register(broken: type) -> type:
            for test in tests:
                name = f'{broken.__name__}-{test}'
                cls.cases.append(pytest.param(broken, test, arguments, options or {}, id=name))
            return broken

        return register


SUITES = {
    'servers': (servers.ServerDriverContract, server_backend),
    'networks': (networks.NetworkDriverContract, network_backend),
    'vifs': (vifs.VIFDriverContract, vif_backend),
}

NO_FENCE = base.Fence(0, float('inf'))


@Sabotage.found_by('servers.test_get_of_an_unknown_server', 'servers.test_unreachable_is_not_the_same_as_gone')
class ConfusesErrors(memory.MemoryCloud):
    def get(self, ctxt, server_id):
        try:
            return super().get(ctxt, server_id)
        except exceptions.ServerNotFound as error:
            raise exceptions.Unavailable() from error
        except exceptions.Unavailable as error:
            raise exceptions.ServerNotFound(server_id) from error


@Sabotage.found_by('servers.test_get_answers_whoever_asks')
class HidesServers(memory.MemoryCloud):
    def get(self, ctxt, server_id):
        server = super().get(ctxt, server_id)
        if server.project_id != ctxt.project_id:
            raise exceptions.ServerNotFound(server_id)
        return server


@Sabotage.found_by('servers.test_get_of_an_id_that_is_nearly_right', pattern='{} ')
class Trims(memory.MemoryCloud):
    def get(self, ctxt, server_id):
        return super().get(ctxt, server_id.strip())


@Sabotage.found_by('servers.test_get_of_an_odd_id', odd='%')
class TakesPatterns(memory.MemoryCloud):
    def get(self, ctxt, server_id):
        return next(iter(self._servers.values())) if server_id == '%' else super().get(ctxt, server_id)


@Sabotage.found_by('servers.test_get_answers_the_right_types')
class LocksWrongly(memory.MemoryCloud):
    def get(self, ctxt, server_id):
        return dataclasses.replace(super().get(ctxt, server_id), locked_by=True)


@Sabotage.found_by('servers.test_attachments_changed_may_be_repeated', event='attached')
class RefusesRepetition(memory.MemoryCloud):
    def attachments_changed(self, ctxt, server_id, event):
        if event in self._events[server_id]:
            raise exceptions.DriverError()
        super().attachments_changed(ctxt, server_id, event)


@Sabotage.found_by('servers.test_attachments_changed_of_a_server_that_is_gone')
class ComplainsOfGoneServers(memory.MemoryCloud):
    def attachments_changed(self, ctxt, server_id, event):
        self.get(ctxt, server_id)


@Sabotage.found_by('servers.test_attachments_changed_is_there_when_it_returns', event='attached')
class ForgetsToTell(memory.MemoryCloud):
    def attachments_changed(self, ctxt, server_id, event):
        pass


@Sabotage.found_by(
    'networks.test_create_with_the_same_mark_gives_the_same_port',
    'networks.test_create_with_the_same_mark_by_threads_at_once',
    'networks.test_create_again_after_the_answer_was_lost',
    'networks.test_create_again_with_the_address_asked_for',
    'networks.test_create_with_the_last_of_the_quota',
    'networks.test_create_with_the_last_address',
)
class IgnoresMarks(memory.MemoryCloud):
    def create(self, ctxt, server, request, mark, fence):
        port = super().create(ctxt, server, request, f'{mark}/{len(self._ports)}', fence)
        return self.change_port(port.id, mark=mark)


@Sabotage.found_by('networks.test_create_with_the_same_mark_by_threads_at_once')
class ChecksMarksTooEarly(memory.MemoryCloud):
    def __init__(self, config):
        super().__init__(config)
        self.together = threading.Barrier(4)

    def create(self, ctxt, server, request, mark, fence):
        known = self._marked(mark)
        with contextlib.suppress(threading.BrokenBarrierError):
            self.together.wait(1)
        self.together.abort()
        if known:
            return known
        port = super().create(ctxt, server, request, f'{mark}/{threading.get_ident()}', fence)
        return self.change_port(port.id, mark=mark)


@Sabotage.found_by('networks.test_create_with_a_mark_that_is_the_beginning_of_another')
class MatchesMarksByTheirBeginning(memory.MemoryCloud):
    def _marked(self, mark):
        return next((port for port in self._ports.values() if mark and (port.mark or '').startswith(mark)), None)


@Sabotage.found_by('networks.test_create_makes_a_port_of_the_server', 'networks.test_get_port_that_was_created')
class ForgetsMarks(memory.MemoryCloud):
    def create(self, *args):
        return self.change_port(super().create(*args).id, mark=None)


@Sabotage.found_by('networks.test_create_in_the_project_of_the_server_whoever_asks')
class CreatesInTheProjectOfTheCaller(memory.MemoryCloud):
    def create(self, ctxt, server, *args):
        port = super().create(ctxt, server, *args)
        return self.change_port(port.id, project_id=ctxt.project_id)


@Sabotage.found_by('networks.test_create_makes_a_port_of_the_server')
class CreatesWithoutDevice(memory.MemoryCloud):
    def create(self, *args):
        return self.change_port(super().create(*args).id, device_id=None)


@Sabotage.found_by(
    'networks.test_create_with_the_address_asked_for',
    'networks.test_create_with_an_address_in_use',
    'networks.test_create_with_an_invalid_address',
    'networks.test_create_with_one_address_by_threads_at_once',
)
class IgnoresAddresses(memory.MemoryCloud):
    def create(self, ctxt, server, request, mark, fence):
        # One address is lost first, so that the right one is not given by chance.
        self.add_port(request.network_id, 'operator')
        return super().create(ctxt, server, base.PortRequest(request.network_id), mark, fence)


@Sabotage.found_by('networks.test_create_with_an_address_in_use')
class LeavesPortsOfFailures(memory.MemoryCloud):
    def create(self, ctxt, server, request, mark, fence):
        try:
            return super().create(ctxt, server, request, mark, fence)
        except exceptions.AddressInUse:
            self.add_port(request.network_id, server.project_id, device_id=server.id)
            raise


@Sabotage.found_by('networks.test_create_on_a_network_that_the_caller_cannot_see')
class TellsHiddenNetworks(memory.MemoryCloud):
    def _network_for(self, ctxt, server, network_id):
        try:
            return super()._network_for(ctxt, server, network_id)
        except exceptions.NetworkNotFound as error:
            raise exceptions.NetworkNotUsable() from error


@Sabotage.found_by(
    'networks.test_create_on_a_network_that_is_forbidden',
    'networks.test_create_on_a_network_without_use',
    'networks.test_claim_of_a_port_without_use',
    'networks.test_claim_of_a_port_of_a_network_that_is_forbidden',
)
class UsesAnyNetwork(memory.MemoryCloud):
    def _check_use(self, ctxt, network, error):
        pass


@Sabotage.found_by('networks.test_create_where_networks_are_many', 'networks.test_create_where_no_network_is')
class GuessesTheNetwork(memory.MemoryCloud):
    def _only_network(self, project_id):
        return next(iter(self._networks.values()))


@Sabotage.found_by('networks.test_create_on_the_only_network')
class TakesTheLastNetwork(memory.MemoryCloud):
    def _only_network(self, project_id):
        return list(self._networks.values())[-1]


@Sabotage.found_by('networks.test_create_on_a_network_with_an_odd_id', odd='')
class TakesEmptyForNone(memory.MemoryCloud):
    def _network_for(self, ctxt, server, network_id):
        return super()._network_for(ctxt, server, network_id or next(iter(self._networks)))


@Sabotage.found_by('networks.test_create_with_the_last_of_the_quota')
class IgnoresTheQuota(memory.MemoryCloud):
    def _check_quota(self, project_id):
        pass


@Sabotage.found_by(
    'networks.test_create_past_the_deadline',
    'networks.test_claim_past_the_deadline',
    'networks.test_unbind_past_the_deadline',
    'networks.test_delete_past_the_deadline',
    'networks.test_bind_past_the_deadline',
    'vifs.test_plug_past_the_deadline',
    'vifs.test_unplug_past_the_deadline',
)
class IgnoresTheFence(memory.MemoryCloud):
    def create(self, ctxt, server, request, mark, fence):
        return super().create(ctxt, server, request, mark, NO_FENCE)

    def claim(self, ctxt, server, port_id, fence):
        return super().claim(ctxt, server, port_id, NO_FENCE)

    def unbind(self, ctxt, port_id, server_id, fence):
        super().unbind(ctxt, port_id, server_id, NO_FENCE)

    def delete(self, ctxt, port_id, mark, fence):
        super().delete(ctxt, port_id, mark, NO_FENCE)

    def bind(self, ctxt, port, host, fence):
        return super().bind(ctxt, port, host, NO_FENCE)

    def plug(self, ctxt, server, port, fence):
        return super().plug(ctxt, server, port, NO_FENCE)

    def unplug(self, ctxt, server, port_id, plug_data, fence):
        super().unplug(ctxt, server, port_id, plug_data, NO_FENCE)


@Sabotage.found_by('networks.test_claim_past_the_deadline', 'networks.test_delete_past_the_deadline')
class AsksTheFenceAfterwards(memory.MemoryCloud):
    def claim(self, ctxt, server, port_id, fence):
        port = super().claim(ctxt, server, port_id, NO_FENCE)
        fence.check()
        return port

    def delete(self, ctxt, port_id, mark, fence):
        super().delete(ctxt, port_id, mark, NO_FENCE)
        fence.check()


@Sabotage.found_by(
    'networks.test_claim_of_a_port_of_another_server',
    'networks.test_claim_of_a_port_of_a_device_that_is_no_server',
    'networks.test_claim_by_many_servers_at_once',
)
class StealsPorts(memory.MemoryCloud):
    def claim(self, ctxt, server, port_id, fence):
        port = self._port(port_id)
        if port.project_id == server.project_id:
            self.change_port(port_id, device_id=None)
        return super().claim(ctxt, server, port_id, fence)


@Sabotage.found_by('networks.test_claim_by_many_servers_at_once')
class ClaimsTwice(memory.MemoryCloud):
    """Looks first and writes later, as a driver without a compare-and-swap does."""

    def __init__(self, config):
        super().__init__(config)
        self.together = threading.Barrier(10)

    def claim(self, ctxt, server, port_id, fence):
        if self.get_port(ctxt, port_id).device_id:
            raise exceptions.PortInUse(port_id)
        self.together.wait(5)
        return self.change_port(port_id, device_id=server.id)


@Sabotage.found_by('networks.test_claim_of_a_port_that_the_server_has')
class RefusesToClaimAgain(memory.MemoryCloud):
    def claim(self, ctxt, server, port_id, fence):
        if self._port(port_id).device_id:
            raise exceptions.PortInUse(port_id)
        return super().claim(ctxt, server, port_id, fence)


@Sabotage.found_by(
    'networks.test_claim_of_a_port_of_another_project',
    'networks.test_claim_of_a_port_of_another_project_by_an_administrator',
)
class ClaimsForeignPorts(memory.MemoryCloud):
    def claim(self, ctxt, server, port_id, fence):
        project_id = self._port(port_id).project_id
        return super().claim(ctxt, dataclasses.replace(server, project_id=project_id), port_id, fence)


@Sabotage.found_by('networks.test_claim_of_a_free_port')
class GivesAnotherAddressOnClaim(memory.MemoryCloud):
    def claim(self, *args):
        port = super().claim(*args)
        return self.change_port(port.id, fixed_ips=(base.FixedIP('subnet', '10.0.0.99'),))


@Sabotage.found_by('networks.test_unbind_of_a_port_of_another_server')
class UnbindsAnything(memory.MemoryCloud):
    def unbind(self, ctxt, port_id, server_id, fence):
        if port_id in self._ports:
            self.change_port(port_id, device_id=None)


@Sabotage.found_by('networks.test_unbind_frees_the_port')
class UnbindDeletes(memory.MemoryCloud):
    def unbind(self, ctxt, port_id, server_id, fence):
        self.remove_port(port_id)


@Sabotage.found_by('networks.test_unbind_of_an_unknown_port')
@Sabotage.found_by('networks.test_unbind_of_an_odd_id', odd='')
class UnbindComplains(memory.MemoryCloud):
    def unbind(self, ctxt, port_id, server_id, fence):
        self._port(port_id)
        super().unbind(ctxt, port_id, server_id, fence)


@Sabotage.found_by('networks.test_unbind_leaves_the_other_ports_of_the_server')
class UnbindsAllOfTheServer(memory.MemoryCloud):
    def unbind(self, ctxt, port_id, server_id, fence):
        for port in self.list_ports(ctxt, server_id):
            super().unbind(ctxt, port.id, server_id, fence)


@Sabotage.found_by(
    'networks.test_delete_of_a_port_with_another_mark',
    'networks.test_delete_of_a_port_without_a_mark',
    'networks.test_delete_without_a_mark_of_a_port_that_has_one',
)
class DeletesAnothers(memory.MemoryCloud):
    def delete(self, ctxt, port_id, mark, fence):
        port = self._marked(mark) if port_id is None else self._ports.get(port_id)
        if port:
            self.remove_port(port.id)


@Sabotage.found_by('networks.test_delete_of_a_port_with_another_mark')
class DeletesByTheBeginningOfTheMark(memory.MemoryCloud):
    def delete(self, ctxt, port_id, mark, fence):
        port = self._ports.get(port_id)
        if port and mark and (port.mark or '').startswith(mark):
            mark = port.mark
        super().delete(ctxt, port_id, mark, fence)


@Sabotage.found_by(
    'networks.test_delete_by_id_and_mark_again',
    'networks.test_delete_by_threads_at_once',
    'networks.test_delete_of_an_unknown_port',
    'networks.test_delete_again_after_the_answer_was_lost',
)
class DeleteComplains(memory.MemoryCloud):
    def delete(self, ctxt, port_id, mark, fence):
        self._port(port_id)
        super().delete(ctxt, port_id, mark, fence)


@Sabotage.found_by(
    'networks.test_delete_by_mark_alone', 'networks.test_delete_by_mark_of_what_was_created_without_an_answer'
)
class DeletesOnlyById(memory.MemoryCloud):
    def delete(self, ctxt, port_id, mark, fence):
        if port_id is not None:
            super().delete(ctxt, port_id, mark, fence)


@Sabotage.found_by('networks.test_delete_that_names_nothing_deletes_nothing')
class TakesNoMarkForAMark(memory.MemoryCloud):
    def delete(self, ctxt, port_id, mark, fence):
        if port_id is None:
            self._ports = {port.id: port for port in self._ports.values() if port.mark != mark}


@Sabotage.found_by('networks.test_delete_by_a_mark_that_no_port_has')
class DeletesByPattern(memory.MemoryCloud):
    def delete(self, ctxt, port_id, mark, fence):
        if mark == '%':
            self._ports.clear()
        super().delete(ctxt, port_id, mark, fence)


@Sabotage.found_by(
    'networks.test_list_of_a_server_without_ports',
    'networks.test_list_tells_exactly_the_ports_of_the_server',
    'networks.test_list_of_an_unknown_server',
)
class ListsAll(memory.MemoryCloud):
    def list_ports(self, ctxt, server_id):
        return list(self._ports.values())


@Sabotage.found_by('networks.test_list_of_an_odd_id', odd='')
class ListsFreePorts(memory.MemoryCloud):
    def list_ports(self, ctxt, server_id):
        return [port for port in self._ports.values() if (port.device_id or '') == server_id]


@Sabotage.found_by('networks.test_list_answers_the_right_types', 'networks.test_list_tells_what_get_port_tells')
class ListsLists(memory.MemoryCloud):
    def list_ports(self, ctxt, server_id):
        return [
            dataclasses.replace(port, fixed_ips=list(port.fixed_ips), mark=None)
            for port in super().list_ports(ctxt, server_id)
        ]


@Sabotage.found_by('networks.test_list_answers_whoever_asks', 'networks.test_get_port_of_whichever_project')
class HidesPorts(memory.MemoryCloud):
    def list_ports(self, ctxt, server_id):
        return [p for p in super().list_ports(ctxt, server_id) if p.project_id == ctxt.project_id]

    def get_port(self, ctxt, port_id):
        port = super().get_port(ctxt, port_id)
        if port.project_id != ctxt.project_id:
            raise exceptions.PortNotFound(port_id)
        return port


@Sabotage.found_by('networks.test_unreachable_is_not_the_same_as_gone')
class AnswersEmptyWhenDown(memory.MemoryCloud):
    def list_ports(self, ctxt, server_id):
        try:
            return super().list_ports(ctxt, server_id)
        except exceptions.Unavailable:
            return []


@Sabotage.found_by('networks.test_bind_answers_what_is_to_be_plugged', 'networks.test_bind_on_a_host_that_cannot')
class BindDoesNothing(memory.MemoryCloud):
    def bind(self, ctxt, port, host, fence):
        return port


@Sabotage.found_by('networks.test_bind_of_a_port_that_another_server_has_got_meanwhile')
class BindsAnothers(memory.MemoryCloud):
    def bind(self, ctxt, port, host, fence):
        return self.change_port(port.id, host=host)


@Sabotage.found_by(
    'networks.test_find_marked_finds_exactly_the_ports_of_the_installation',
    'networks.test_find_marked_takes_nothing_for_a_pattern',
)
class FindsOthersMarks(memory.MemoryCloud):
    def find_marked(self, ctxt, installation):
        installation = installation.strip('%*')
        return [p for p in self._ports.values() if (p.mark or '').startswith(f'osif:{installation}')]


@Sabotage.found_by('networks.test_created_by_server_is_never_true_of_a_port_that_was_brought')
class ClaimsToHaveCreatedAll(memory.MemoryCloud):
    def created_by_server(self, ctxt, server, port):
        return True


@Sabotage.found_by('vifs.test_plug_again_makes_no_second_nic', 'vifs.test_plug_again_after_the_answer_was_lost')
class PlugsTwice(memory.MemoryCloud):
    def plug(self, ctxt, server, port, fence):
        present = port.id in self._nics[server.id]
        answer = super().plug(ctxt, server, port, fence)
        if present:
            self._nics[server.id].append(port.id)
        return answer


@Sabotage.found_by('vifs.test_plug_answers_small_json')
class AnswersTuples(memory.MemoryCloud):
    def plug(self, ctxt, server, port, fence):
        return super().plug(ctxt, server, port, fence) | {'slots': (1, 2)}


@Sabotage.found_by('vifs.test_plug_answers_small_json')
class AnswersTooMuch(memory.MemoryCloud):
    def plug(self, ctxt, server, port, fence):
        return super().plug(ctxt, server, port, fence) | {'xml': 'x' * 5000}


@Sabotage.found_by('vifs.test_plug_that_fails_leaves_nothing')
class LeavesHalfANic(memory.MemoryCloud):
    def plug(self, ctxt, server, port, fence):
        try:
            return super().plug(ctxt, server, port, fence)
        except exceptions.PlugFailed:
            self._nics[server.id].append(port.id)
            raise


@Sabotage.found_by('vifs.test_unplug_takes_the_nic_out', 'vifs.test_plug_after_unplug', options={'unplug_asks': 1})
class ReturnsTooEarly(memory.MemoryCloud):
    def unplug(self, ctxt, server, port_id, plug_data, fence):
        with contextlib.suppress(exceptions.InProgress):
            super().unplug(ctxt, server, port_id, plug_data, fence)


@Sabotage.found_by('vifs.test_unplug_takes_the_nic_out')
class NeverDone(memory.MemoryCloud):
    def unplug(self, ctxt, server, port_id, plug_data, fence):
        raise exceptions.InProgress()


@Sabotage.found_by('vifs.test_unplug_again_has_nothing_to_do', 'vifs.test_unplug_of_a_port_that_was_never_plugged')
class UnplugComplains(memory.MemoryCloud):
    def unplug(self, ctxt, server, port_id, plug_data, fence):
        if port_id not in self._nics[server.id]:
            raise exceptions.PortNotFound(port_id)
        super().unplug(ctxt, server, port_id, plug_data, fence)


@Sabotage.found_by('vifs.test_unplug_without_plug_data')
class NeedsPlugData(memory.MemoryCloud):
    def unplug(self, ctxt, server, port_id, plug_data, fence):
        if plug_data:
            super().unplug(ctxt, server, port_id, plug_data, fence)


@Sabotage.found_by('vifs.test_unplug_leaves_the_other_nic', 'vifs.test_unplug_of_a_port_that_was_never_plugged')
class UnplugsAll(memory.MemoryCloud):
    def unplug(self, ctxt, server, port_id, plug_data, fence):
        self._nics[server.id].clear()


@Sabotage.found_by('vifs.test_unplug_leaves_the_other_server')
class UnplugsEverywhere(memory.MemoryCloud):
    def unplug(self, ctxt, server, port_id, plug_data, fence):
        for nics in self._nics.values():
            nics[:] = [nic for nic in nics if nic != port_id]


@Sabotage.found_by('vifs.test_plugged_answers_a_set_of_ids')
class TellsLists(memory.MemoryCloud):
    def plugged(self, ctxt, server):
        return list(super().plugged(ctxt, server))


@Sabotage.found_by('vifs.test_plugged_without_side_effects_is_not_known')
class TellsThatNothingIsThere(memory.MemoryCloud):
    has_side_effects = False

    def plug(self, ctxt, server, port, fence):
        return {}

    def plugged(self, ctxt, server):
        return set()


@Sabotage.found_by('vifs.test_plug_puts_the_nic_in')
class DeniesItsSideEffects(memory.MemoryCloud):
    has_side_effects = False


@Sabotage.found_by('vifs.test_find_plugged_tells_the_nics_of_all_servers')
class MixesUpWhoseNicsItFinds(memory.MemoryCloud):
    def find_plugged(self, ctxt, installation):
        return {(port_id, server_id) for server_id, port_id in super().find_plugged(ctxt, installation)}


@Sabotage.found_by('vifs.test_find_plugged_leaves_out_the_nics_of_another_installation')
class FindsWhatOthersHavePlugged(memory.MemoryCloud):
    def find_plugged(self, ctxt, installation):
        return super().find_plugged(ctxt, '')


@Sabotage.found_by('vifs.test_find_plugged_leaves_out_the_nics_of_another_installation')
class KeepsTheFirstMark(memory.MemoryCloud):
    def plug(self, ctxt, server, port, fence):
        known = self._installations.get((server.id, port.id)) or fence.installation
        return super().plug(ctxt, server, port, dataclasses.replace(fence, installation=known))


@Sabotage.found_by('vifs.test_capabilities_are_asked_without_a_side_effect')
class PlugsToLearn(memory.MemoryCloud):
    def capabilities(self, ctxt, server):
        self._nics[server.id].append('probe')
        return super().capabilities(ctxt, server)


@Sabotage.found_by('vifs.test_unreachable_is_not_the_same_as_gone')
class TellsNothingWhenDown(memory.MemoryCloud):
    def plugged(self, ctxt, server):
        try:
            return super().plugged(ctxt, server)
        except exceptions.Unavailable:
            return set()


@pytest.mark.parametrize(('broken', 'test', 'arguments', 'options'), Sabotage.cases)
def test_a_broken_driver_is_found_out(
    broken: type[memory.MemoryCloud], test: str, arguments: dict[str, Any], options: dict[str, Any]
) -> None:
    kind, _, name = test.partition('.')
    suite, make_backend = SUITES[kind]

    def run(cloud_class: type[memory.MemoryCloud]) -> None:
        getattr(suite(), name)(make_backend(cloud_of(cloud_class, **options)), **arguments)

    run(memory.MemoryCloud)
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        run(broken)
    assert not isinstance(caught.value, pytest.skip.Exception | AttributeError | TypeError | KeyError)


# ---------------------------------------------------------------------- as a third party meets them

THIRD_PARTY = """
import pytest
from os_interface_ext import conf
from os_interface_ext.testing import memory, servers


class Broken(memory.MemoryCloud):
    def get(self, ctxt, server_id):
        return self.add_server('somebody')


class Suite(servers.ServerDriverContract):
    driver = memory.MemoryCloud

    @pytest.fixture
    def backend(self):
        cloud = self.driver(conf.new([]))
        return servers.ServerBackend(
            driver=cloud, server=cloud.add_server('project'), foreign_server=cloud.add_server('other')
        )


class TestGood(Suite):
    pass


class TestBroken(Suite):
    driver = Broken


class TestForgotTheFixture(servers.ServerDriverContract):
    pass
"""


def test_the_suites_under_pytest(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(THIRD_PARTY)
    result = pytester.runpytest('-rs', '-k', 'not TestBroken')
    outcomes = result.parseoutcomes()
    assert 'failed' not in outcomes
    assert outcomes['errors'] == outcomes['passed'] + outcomes['skipped']
    result.stdout.fnmatch_lines(['*the backend under test has no remove_server*'])
    result.stdout.fnmatch_lines(['*override the fixture `backend`: it gives a ServerBackend*'])


@pytest.mark.service
def test_a_failed_assertion_of_a_suite_shows_its_values(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(THIRD_PARTY)
    result = pytester.runpytest_subprocess('-k', 'TestBroken and tells_the_server')
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(['*assert Server(id=*) == Server(id=*'])


@pytest.mark.service
def test_the_package_needs_no_pytest_outside_of_the_suites(pytester: pytest.Pytester) -> None:
    result = pytester.run(
        sys.executable,
        '-c',
        'import sys; import os_interface_ext.testing.memory, os_interface_ext.drivers.loader; '
        'assert not {"pytest", "_pytest"} & set(sys.modules)',
    )
    assert result.ret == 0, result.stderr.str()
