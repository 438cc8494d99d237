"""Which trial next, and who runs it: the shared study."""
