"""What the papers claim, computed from the catalogue and the planner's roofline."""
