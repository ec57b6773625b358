"""``[oslo_policy]``: the options of oslo.policy, as every OpenStack operator knows them."""

from typing import Any

from oslo_config import cfg
from oslo_policy import opts


def register_opts(conf: cfg.ConfigOpts) -> None:
    # oslo.policy registers them itself; a policy file is optional here.
    opts._register(conf)
    opts.set_defaults(conf, policy_file='policy.yaml')


def list_opts() -> list[Any]:
    return opts.list_opts()
