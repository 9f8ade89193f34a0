"""What the Optimizer is made of: candidates, the gate of asks and tells, the search and its restarts, records."""
