"""A plugin of the smallest components that exercise every check, for tests of registry, configuration and commands."""
