"""What `loongforge schema` writes: a JSON schema of all that the installed plugins let a YAML file say. Imports no torch."""
