"""Corpora: where records lie, and which splits are theirs.

``open_corpus("ptbxl", folder)`` lists recordings without reading their signals; ``corpus.read(items)`` reads some.
"""

from __future__ import annotations

from pretraining.corpora.corpus import Corpus, Item, LeftOut
from pretraining.corpora.opening import CORPORA, open_corpus, parse_corpus

__all__ = ["CORPORA", "Corpus", "Item", "LeftOut", "open_corpus", "parse_corpus"]
