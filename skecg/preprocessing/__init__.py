"""Records to what encoders are fed: quality, resampling, filters, windows."""
