"""What a step costs where it has not run: compiled from shapes alone, and read."""
