"""What a running job needs: processes, its directory, progress, metrics."""
