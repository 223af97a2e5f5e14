"""What attends over KV pages: C++ on CPUs, drives beside it, Triton on GPUs, and plain torch."""
