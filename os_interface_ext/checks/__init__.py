"""What can be wrong with an installation: small questions, each with a name, for ``doctor`` and for upgrades."""
