"""Beyond the paper. Nothing here runs unless you ask for it."""
