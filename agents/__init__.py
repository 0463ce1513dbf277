"""The Faust stages: thin shells that read a block, call the core, write the result."""
