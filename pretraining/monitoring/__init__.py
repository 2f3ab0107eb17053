"""What is seen of a run while it goes on and after: gauges, probe, journal, report."""
