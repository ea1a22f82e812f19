"""What people have and label tools take: folders, tables, checkpoints in; picks and tasks out.

Rooms: select (the command, from options to a folder of files), images (which are labeled, which
not, which cannot be read), csv_files (of paths, byte for byte), checkpoints (a network with trained
weights). May import: strategies, models, datasets, options, plotting, network, files;
not loop.
"""

from __future__ import annotations

from fishermask_fast.labeling.select import select_images

__all__ = [
    "select_images",
]
