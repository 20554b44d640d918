"""YAML: the composition `sensor_demo`."""
