"""Published YAML."""
