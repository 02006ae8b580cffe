"""Reports as single HTML files that open anywhere, offline."""
