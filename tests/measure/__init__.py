"""What decisions rest on: measurements that need large files from outside, run by hand."""
