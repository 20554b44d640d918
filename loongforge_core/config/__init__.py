"""YAML and overrides -> a validated, typed composition. Imports no torch."""
