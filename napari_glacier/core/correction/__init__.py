"""Correcting labels: the editable mask, its journal, saving, review and what to look at next."""
