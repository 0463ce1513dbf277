"""The benchmark. A package, so that pytest never puts this folder on the import path: `kafka.py` would hide Kafka's."""
