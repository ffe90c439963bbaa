"""Models of a data set: which there are, which is better, which is in use."""
