"""What can be decided without a clock, a socket or a disk: pure functions and plain data."""
