"""What a run leaves on disk: its identity and its record, the truth that every view is made from."""
