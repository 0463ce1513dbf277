"""The marketer's objects: their store, its REST interface, and their way to the topic `campaigns`."""
