"""Who may do what: the rules, and an enforcer of our own."""

from __future__ import annotations

import time
from typing import Any

from oslo_config import cfg
from oslo_policy import policy

from os_interface_ext import conf as config
from os_interface_ext import exceptions
from os_interface_ext.context import RequestContext
from os_interface_ext.policies import attach_interfaces, base

#: Seconds for which the policy files and the decisions made by them are taken to be the same.
_LOOK_EVERY = 1.0


def list_rules() -> list[policy.RuleDefault]:
    """All rules, for oslo.policy's generators."""
    return [*base.RULES, *attach_interfaces.RULES]


def get_enforcer() -> policy.Enforcer:
    """An enforcer with the default configuration, for oslo.policy's command-line tools."""
    return Enforcer(config.new())._enforcer


class Enforcer:
    """Asks oslo.policy; never its module-wide enforcer, which is the host's."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._enforcer = policy.Enforcer(conf)
        self._enforcer.suppress_default_change_warnings = True
        self._enforcer.register_defaults(list_rules())
        self._enforcer.load_rules()
        self._look_again = 0.0
        self._decisions: dict[tuple[Any, ...], bool] = {}

    def is_admin(self, ctxt: RequestContext) -> bool:
        """Whether the caller is an administrator, as the rule ``context_is_admin`` says."""
        return self._allows(base.ADMIN, ctxt, {})

    def allows(self, rule: str, ctxt: RequestContext, project_id: str) -> bool:
        """Whether the caller may do to a project's server what the rule is about."""
        return self._allows(rule, ctxt, {'project_id': project_id})

    def enforce(self, rule: str, ctxt: RequestContext, project_id: str) -> None:
        """:raises Forbidden: the caller may not"""
        if not self.allows(rule, ctxt, project_id):
            raise exceptions.Forbidden(f'Policy does not allow {rule} to be performed. Your roles are not enough.')

    def check(self) -> None:
        """:raises InvalidDefinitionError: a rule refers to one that is not there, or to itself"""
        self._enforcer.check_rules(raise_on_violation=True)

    def known_rules(self) -> set[str]:
        """The names of all rules that are asked for, or that these are made of."""
        return set(self._enforcer.registered_rules)

    def rules_of_files(self) -> set[str]:
        """The names of the rules that an operator has written."""
        return set(self._enforcer.file_rules)

    def _allows(self, rule: str, ctxt: RequestContext, target: dict[str, Any]) -> bool:
        # One look for changed policy files and one decision a second for the same caller: each costs
        # oslo.policy 90 microseconds and more, as much as the rest of a request.
        moment = time.monotonic()
        if moment >= self._look_again:
            self._look_again = moment + _LOOK_EVERY
            self._decisions = {}
            self._enforcer.load_rules()
        key = (rule, *target.values(), *ctxt.policy_key)
        decision = self._decisions.get(key)
        if decision is None:
            decision = self._decisions[key] = self._ask(rule, ctxt, target)
        return decision

    def _ask(self, rule: str, ctxt: RequestContext, target: dict[str, Any]) -> bool:
        try:
            return bool(self._enforcer.enforce(rule, target, ctxt))
        except policy.InvalidScope as error:
            raise exceptions.Forbidden(
                'The token is not scoped to a project. Ask for one that is.', operator=str(error)
            ) from error
