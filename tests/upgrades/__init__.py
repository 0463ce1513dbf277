"""What lies in people's logs, and what runs beside us while a cluster is upgraded."""
