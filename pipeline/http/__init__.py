"""HTTP/1.1 as collector, delivery and campaigns serve it: bounded in size and time, one call a request, no copies."""
