"""The trainer of skecg's encoders: pack, train, export, inspect.

Run from a checkout: ``python -m pretraining VERB`` or ``torchrun -m pretraining train``. skecg never imports it.
"""
