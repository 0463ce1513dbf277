"""ClickHouse's native TCP protocol in front of an engine that runs in this process.

server.py accepts, session.py speaks for one client, packets.py knows the packets, wire.py the bytes, blocks.py where a
block of rows ends, statement.py what a statement is, engine.py owns chDB, running.py what runs and how it is stopped.
"""
