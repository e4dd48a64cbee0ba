"""What the finished link graph of a corpus says of its pages, hosts and domains."""
