"""Where the shared truth is kept: adapters of seams.Store."""
