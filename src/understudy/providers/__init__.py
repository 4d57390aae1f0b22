"""Where nodes come from: adapters of seams.Provider."""
