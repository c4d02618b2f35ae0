"""The application: which shops repair what."""
