"""The other end of the VIF driver ``rpc``: a process on each hypervisor host, without a database."""
