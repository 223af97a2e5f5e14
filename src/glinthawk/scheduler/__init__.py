"""Who goes next: events in, commands out. A pure state machine without clock, socket or tensor."""
