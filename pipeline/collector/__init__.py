"""The collector: takes events over HTTP, masks them, gathers them into blocks and answers once the broker has them."""
