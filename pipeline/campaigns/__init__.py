"""The marketer's objects: their store and its REST interface, the leases and slots in it, and the topic `campaigns`."""
