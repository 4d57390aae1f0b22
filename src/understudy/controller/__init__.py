"""The process that decides how many workers there are."""
