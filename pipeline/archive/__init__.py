"""Copying the log `collected`: into a folder and back, and into topics of another number of partitions.

The log is the truth: states, sessions, profiles, outcomes, models and the warehouse's rows are made from it again.
"""
