"""The audit: log, ledger and warehouse compared by block, and put right."""
