"""From files to batches: conversations -> template -> sample -> collate, in the order of sampler; `training_data` is all of it."""
