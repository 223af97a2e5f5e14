"""Between a device and the host: tensors on their way."""
