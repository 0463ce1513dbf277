"""Random kills: `make chaos`. A real load, kill -9 of every kind of process, and then everything must add up."""
