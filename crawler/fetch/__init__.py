"""The worker's event loop: leases in, requests out within the rules. Nothing here may block."""
