"""A small controller with the plug-in in it: for a first minute, for development and for tests."""
