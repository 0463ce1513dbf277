"""Herald's own parts: the pure core, the edges to outside things, and the processes that `herald` starts."""
