"""Logistic regression for many labels at once."""
