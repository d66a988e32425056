"""What happens when files, disks and machines fail."""
