"""`herald demo`: everything on this machine, on real input, with a summary of what came of it."""
