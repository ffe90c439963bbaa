"""Networks, checkpoints, ensembles and the predictor: the only torch modules the plugin uses."""
