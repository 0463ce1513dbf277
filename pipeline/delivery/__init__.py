"""Delivery: answers decisions from memory, logs each with its exact probability, and takes what becomes of them."""
