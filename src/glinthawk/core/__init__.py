"""The vocabulary: plain Python that every other folder imports. No torch, no sockets, no clock."""
