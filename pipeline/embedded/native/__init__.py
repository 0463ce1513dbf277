"""ClickHouse's native TCP protocol in front of an engine that runs in this process.

server.py accepts, session.py speaks for one client: insert.py takes its rows (spool.py holds them until the engine has
them), answer.py gives it rows, kill.py stops what others run. packets.py knows the packets, wire.py the bytes,
channel.py the socket, blocks.py where a block of rows ends, statement.py what a statement is, running.py what runs now.
engine.py owns chDB, tuning.py makes it small, faults.py names what can go wrong.
"""
