"""The panels of the page, one file each: base.py says what one is, page.py where it stands."""
