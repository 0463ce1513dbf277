"""What is outside, a module for each: Kafka, the warehouse, the clock, the network, secrets, metrics.

Clients are made here. Who else may import a client library, and what for, is listed in tests/test_tidy.py (EDGES).
"""
