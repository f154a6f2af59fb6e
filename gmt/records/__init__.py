"""Run ids and run records. A record is the folder with everything that is known of a run; all views derive from it."""
