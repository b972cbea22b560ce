"""The Jobs service: jobs, job types and files over gRPC."""
