"""What crosses the gap and how: deltas against what a site has, and the site's receipts."""
