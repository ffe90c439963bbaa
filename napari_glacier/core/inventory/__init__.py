"""From class maps to an inventory: outlines, areas, reports, change."""
