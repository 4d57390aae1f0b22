"""The process that users connect to: places sessions, relays audio, meters."""
