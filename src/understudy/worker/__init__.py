"""The process on a node that has one model loaded and runs its sessions in batches."""
