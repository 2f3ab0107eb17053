"""From whatever users pass as X to features: read, name, look up, prepare, encode, keep."""
