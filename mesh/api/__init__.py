"""gRPC: translate request, runtime call, reply; nothing else."""
