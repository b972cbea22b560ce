"""The `millrace` command, one module per group of its commands."""

import os

# gRPC, once loaded, writes an account of its own of every lost connection to standard error, among what people read.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
