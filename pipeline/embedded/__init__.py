"""Kafka and the warehouse for one machine: the real engines, run as children of ours, with nothing to install.

What is here differs from production in addresses only: everything else in Herald talks to it as it would to a cluster.
"""
