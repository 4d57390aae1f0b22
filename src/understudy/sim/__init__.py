"""The fleet in virtual time: traces, a world, other systems' policies, and the figures."""
