"""What the budget bar shows: everything is computed here, and the browser only looks it up."""
