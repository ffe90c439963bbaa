"""What the tools of the correction desk compute: arrays in, a proposed change out. Nothing here edits labels."""
