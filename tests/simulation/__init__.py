"""The stages against a simulated broker, warehouse and clock: everything that can go wrong, from one number."""
