"""“Does it matter here?”: the splits that are compared, and what the page says about them."""
