"""One file for each peer. Only the worker that runs a peer imports its file."""
