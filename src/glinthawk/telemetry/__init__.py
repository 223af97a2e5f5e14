"""What a run tells about itself: log, numbers, progress."""
