"""From a conversations file to batches: conversations -> template -> sample -> collate, in the sampler's order; `training_data` is all of it."""
