"""One module for each outside thing; its client library is imported nowhere else."""
