"""One object that is all three drivers, with an option group of its own."""

from oslo_config import cfg

from os_interface_ext.testing import memory

OPTS = [cfg.StrOpt('url', default='http://127.0.0.1', help='Where the cloud is.')]


class AcmeCloud(memory.MemoryCloud):
    def __init__(self, conf):
        super().__init__(conf)
        conf.register_opts(OPTS, group='acme')
        self.url = conf.acme.url


def list_opts():
    return [('acme', OPTS)]
