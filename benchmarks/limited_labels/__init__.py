"""What few labels are worth."""
