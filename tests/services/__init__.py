"""Real services that tests start by themselves, private and on loopback."""
