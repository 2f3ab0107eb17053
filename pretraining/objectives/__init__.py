"""What the encoders are trained for: one file per objective."""
