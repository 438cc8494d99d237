"""Which pairs of post and criterion, and which folds."""
