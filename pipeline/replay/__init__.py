"""Sending recorded input over HTTP, as the clients it was recorded from would."""
