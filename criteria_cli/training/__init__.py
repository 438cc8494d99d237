"""How one trial is trained: models, memory, batches, loops."""
