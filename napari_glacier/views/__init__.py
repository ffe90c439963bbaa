"""Qt widgets: they show and forward, and decide nothing."""
