"""Manifests -> examples: which clips there are to learn from, and what is said of them. Never imports torch.

What can't be used is left out and told with its line, so that one bad row never stops a run. Whether the files can be
heard, only ``trainer.check`` and the loader find out.
"""

from __future__ import annotations

from pathlib import Path

from trainer.examples import Dataset


def read_data(path: Path) -> Dataset:
    """Read training data, whatever it is.

    ========================================  ==========================================================================
    ``*.jsonl``                               an object a line: ``audio``, ``captions`` (a text, or a list of texts or
                                              of ``{"text", "lang"}``), ``lang``, ``tags``, ``split``, ``id``
    ``*.csv``, ``*.tsv``                      the same columns; many captions: a JSON list in the cell, or repeated rows
    ``*.tar``, a folder with such             WebDataset shards: a sound, and ``.json`` as above or ``.txt`` beside it
    Clotho, AudioCaps, WavCaps, ESC-50        as published, by a table's columns or by the folder's files
    any other folder                          every sound below it, without words
    ========================================  ==========================================================================

    Paths are relative to the manifest. Languages are ISO 639-3; 639-1, 639-2/B and tags such as ``pt-BR`` are mapped.
    Without one a caption is English; without a split a clip is for ``train``. Rows that name one clip and one split
    are one example with all their captions.

    Raises ``DataError`` where there is nothing that could be read.
    """
    raise NotImplementedError
