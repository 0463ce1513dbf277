"""The wire format as first released: a copy of `schemas`, never to be changed. It is the worker that has not been
upgraded yet.
"""
