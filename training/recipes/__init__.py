"""Training recipes: commented YAML files that `--config NAME` finds by name."""
