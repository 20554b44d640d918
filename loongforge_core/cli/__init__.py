"""The `loongforge` command."""
