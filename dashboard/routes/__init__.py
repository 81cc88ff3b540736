"""The files that the navigation names, one for each page."""
