"""Crash points, enumerated: a process is killed at each system call of one unit of its work, a new one goes on, and
what then stands in the stores is compared with what should.

A random kill hardly ever hits a window of a tenth of a millisecond; this hits each one. `python -m tests.crashpoints`
runs all points and prints a table, the tests here run a handful of them.
"""
