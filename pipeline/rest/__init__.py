"""What our REST services share: the OpenAPI document from their table of addresses, the way of a request, and keys."""
