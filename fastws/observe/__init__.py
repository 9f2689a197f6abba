"""What a connection tells of itself: figures, events, early warning."""
