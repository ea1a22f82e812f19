"""What people have and label tools take: folders, tables, checkpoints in; picks and tasks out.

Rooms: select (the command), pools (a folder or a table as data sets), images and tables (which of
them are labeled, which not), prepared (samples that a function makes into batches), embeddings and
no_network (the command on a file of them), asked (lists of samples, and columns about them),
trained (a network by name), checkpoints (its weights), weights (where a file holds them), output
(what is written), telling (what is printed), shown (copies for browsers), label_studio (tasks out,
exports in), import_labels (the command). May import: strategies, models, datasets, selector,
inspection, distributed, masks, network, factors, options, plotting, progress, checks, memory,
files; not loop.
"""

from __future__ import annotations

from fishermask_fast.labeling.embeddings import OwnEmbeddings, pick_embeddings, read_embeddings
from fishermask_fast.labeling.import_labels import import_labels
from fishermask_fast.labeling.output import write_picks
from fishermask_fast.labeling.pools import OwnPool, read_folder, read_table
from fishermask_fast.labeling.select import select_samples
from fishermask_fast.labeling.trained import Trained, load_trained

__all__ = [
    "OwnEmbeddings",
    "OwnPool",
    "Trained",
    "import_labels",
    "load_trained",
    "pick_embeddings",
    "read_embeddings",
    "read_folder",
    "read_table",
    "select_samples",
    "write_picks",
]
