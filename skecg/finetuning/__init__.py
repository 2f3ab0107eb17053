"""Fine-tuning: a head on an encoder, and gradients through both.

What is trained is always a copy; the encoders that the process shares stay as they are.
"""

from __future__ import annotations
