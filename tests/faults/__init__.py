"""What becomes of events while the network, the stores or the workers fail."""
