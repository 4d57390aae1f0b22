"""Models that ship with Understudy: adapters of seams.Model."""
