"""HTTP/1.1 as the collector and delivery serve it: bounded in size and time, one call per request, no task, no copy."""
