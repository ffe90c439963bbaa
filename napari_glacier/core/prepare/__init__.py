"""Making data sets: HKH, and scenes with outlines."""
