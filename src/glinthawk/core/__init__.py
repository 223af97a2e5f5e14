"""The vocabulary: plain Python that every other folder may import. No torch, no sockets, no clock."""
