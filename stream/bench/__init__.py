"""How fast this host is: each stage alone, and a worker with all of them."""
