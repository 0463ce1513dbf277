"""What travels: events, blocks, sessions, profiles, decisions; the topics and tables they live in.

Imports nothing of ours.
"""
