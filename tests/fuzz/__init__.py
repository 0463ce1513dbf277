"""A fuzzer that knows the protocols: right requests made wrong, over real HTTP, against the real services.

plan.py draws shots from a seed, gun.py fires them, tally.py counts what was promised, stand.py runs the services and
reads their books, siege.py has the slow and the greedy clients, contract.py asks by the OpenAPI document.
`python -m tests.fuzz --help`.
"""
