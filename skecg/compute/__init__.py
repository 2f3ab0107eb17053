"""Where and how to compute: devices, precision, threads, progress."""
