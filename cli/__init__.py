"""The `kumomori` command: the only place that may import every program."""
