"""The composition root: the command line, the demo, the dashboard. Nothing imports it."""
