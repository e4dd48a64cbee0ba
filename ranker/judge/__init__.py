"""What a fetched page was worth."""
