"""What each command takes beside what it shares with others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from fishermask_fast.options.data import DataOptions
from fishermask_fast.options.picking import AS_TYPED, QueryOptions, StrategyName
from fishermask_fast.options.schedule import Schedule
from fishermask_fast.options.training import Recipe

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Variant:
    """A strategy under a name of its own, with picking options of its own."""

    strategy: str
    options: Mapping[str, Any] = field(default_factory=dict)


@Parameter(name="*")
@dataclass(frozen=True)
class RunOptions:
    """Experiments that differ in their seed alone.

    Attributes:
        data: Which samples.
        schedule: Which labels, when.
        seed: Of all that is drawn; one run each.
        out: Folder of the run, or of one folder a seed (default: runs/DATA-MODEL-seedS).
        resume: Go on with the run that a folder holds (--resume DIR, or --resume --out DIR), with
            what it was asked for; --rounds may ask for more.
        recipe: How to train.
        model: cnn_small, mlp_small, resnet18_small, vit_small, text_small, or a torchvision
            classifier by name (default: cnn_small for digits, mlp_small for tables, text_small for
            texts, else resnet18_small).
        device: cpu, cuda, ... (default: cuda where there is one).
        query: How to pick.
        variants: Strategies with options of their own, by name.
    """

    data: DataOptions = DataOptions()
    schedule: Schedule = Schedule()
    seed: Annotated[tuple[int, ...], Parameter(group="Loop"), AS_TYPED] = (0,)
    out: Annotated[Path | None, Parameter(group="Loop")] = None
    resume: Annotated[bool, Parameter(group="Loop", negative=())] = False
    recipe: Recipe = Recipe()
    model: Annotated[str | None, Parameter(group="Training")] = None
    device: Annotated[str | None, Parameter(group="Training")] = None
    query: QueryOptions = QueryOptions()
    variants: Annotated[Mapping[str, Variant], Parameter(parse=False)] = field(default_factory=dict)

    def __post_init__(self) -> None:
        listed = " ".join(map(str, self.seed))
        # So far torch's generators go.
        if not all(0 <= seed < 2**63 for seed in self.seed):
            raise ValueError(f"seed must be between 0 and 2**63 - 1; got {listed}")
        if len(set(self.seed)) < len(self.seed):
            raise ValueError(f"seeds must differ; got {listed}")
        if self.resume and self.out is None:
            raise ValueError("resume needs the folder to go on in: --resume DIR")


@Parameter(name="*")
@dataclass(frozen=True)
class SelectOptions:
    """Which of one's own samples to pick from, by whom, and what to write.

    Attributes:
        unlabeled: Folder of images to pick from, at any depth.
        labeled: Folder that holds one folder of images per class.
        csv: Instead of folders, a table (.csv, .jsonl, .parquet) with a column of labels, empty
            where there is none, and a column path (of images, relative to it), a column text, or
            columns of numbers.
        label_column: Column of the labels.
        embeddings: Instead of samples and a model, .npz or safetensors with embeddings (N, d),
            probabilities (N, C) and, where some are labeled, labeled (N,) of 0 or 1.
        image_size: Images are resized and cropped to this side (default: 224, or as timm has it).
        mean: Of the channels (default: ImageNet's, or as timm has it).
        std: Of the channels, on the scale 0 to 1 (default: likewise).
        model: torchvision classifier, such as resnet18; timm:NAME; hf:FOLDER of save_pretrained; or
            package.module:function, which returns a network, or a network and what prepares a list
            of samples for it.
        checkpoint: Its weights, a file of torch.save or safetensors with the state_dict in it.
        classes: Names in the order of the model's outputs (default: as the model names them, else
            labels in alphabetical order).
        device: cpu, cuda, ... (default: cuda where there is one).
        n: Samples to pick.
        strategy: Who picks.
        seed: Of all that is drawn.
        out: Folder to write; must not exist.
        pending: Samples that are at the annotators, such as the picks.csv of an earlier select: a
            table with a column path (of images), row (of a table or of embeddings) or name (of
            embeddings), or a .txt with one a line. They count as picks, and are not picked.
        exclude: Samples that are not picked, listed likewise.
        cluster_column: Column of --csv, or array of --embeddings, that says which video, patient or
            group of duplicates each sample is of.
        max_per_cluster: Picks of one of these at most, the pending ones counted.
        cost_column: Column or array, likewise, of what a label of each sample costs: a gain counts
            1 / cost.
        eval_data: Whose uncertainty is to fall, instead of that of all samples here: where the
            model will be used, as a folder of images, a table or a file of embeddings, whichever
            the pool is. No labels of it are read.
        document_root: LOCAL_FILES_DOCUMENT_ROOT of a Label Studio that is set up (default: the
            folder above that of the images).
        dry_run: Say what a query would read and need, in memory and time, and pick nothing.
        inspect: Test the model on three samples, say what is found, and pick nothing.
        query: How to pick.
    """

    n: Annotated[int, Parameter(name=["--n", "-n"], group="Picking")]
    unlabeled: Annotated[Path | None, Parameter(group="Samples")] = None
    labeled: Annotated[Path | None, Parameter(group="Samples")] = None
    csv: Annotated[Path | None, Parameter(group="Samples")] = None
    label_column: Annotated[str, Parameter(group="Samples")] = "label"
    embeddings: Annotated[Path | None, Parameter(group="Samples")] = None
    image_size: Annotated[int | None, Parameter(group="Samples")] = None
    mean: Annotated[Channels | None, Parameter(group="Samples")] = None
    std: Annotated[Channels | None, Parameter(group="Samples")] = None
    model: Annotated[str | None, Parameter(group="Model")] = None
    checkpoint: Annotated[Path | None, Parameter(group="Model")] = None
    classes: Annotated[tuple[str, ...] | None, Parameter(group="Model")] = None
    device: Annotated[str | None, Parameter(group="Model")] = None
    strategy: Annotated[StrategyName, Parameter(group="Picking")] = "fishermask"
    seed: Annotated[int, Parameter(group="Picking")] = 0
    out: Annotated[Path, Parameter(group="Picking")] = Path("picks")
    pending: Annotated[Path | None, Parameter(group="Picking")] = None
    exclude: Annotated[Path | None, Parameter(group="Picking")] = None
    cluster_column: Annotated[str | None, Parameter(group="Picking")] = None
    max_per_cluster: Annotated[int | None, Parameter(group="Picking")] = None
    cost_column: Annotated[str | None, Parameter(group="Picking")] = None
    eval_data: Annotated[Path | None, Parameter(group="Picking")] = None
    document_root: Annotated[Path | None, Parameter(group="Picking")] = None
    dry_run: Annotated[bool, Parameter(group="Picking", negative=())] = False
    inspect: Annotated[bool, Parameter(group="Picking", negative=())] = False
    query: QueryOptions = QueryOptions()

    def __post_init__(self) -> None:
        for name, least in (("n", 1), ("seed", 0), ("image_size", 1), ("max_per_cluster", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; got {value}")
        given = [each is not None for each in (self.unlabeled, self.csv, self.embeddings)]
        if self.embeddings is None and self.model is None:
            raise ValueError("--model is needed (see fishermask-fast select --help)")
        if sum(given) != 1:
            raise ValueError(
                "give --unlabeled (and --labeled) folders, --csv, or --embeddings; one of the three"
            )
        if self.unlabeled is None and self.labeled is not None:
            raise ValueError("--labeled goes with --unlabeled; a table has its labels in a column")
        if self.embeddings is not None and (self.model or self.checkpoint or self.inspect):
            raise ValueError("--embeddings needs no network: leave --model and --checkpoint out")
        if self.embeddings is not None and self.document_root:
            raise ValueError("--document-root is where Label Studio finds images; it needs some")
        self._check_columns()
        if self.dry_run and self.inspect:
            raise ValueError("give --dry-run or --inspect, not both")
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is None:
                continue
            if not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
                expected = "finite and above 0" if name == "std" else "finite"
                raise ValueError(f"{name} must be {expected}; got {' '.join(map(str, values))}")

    def _check_columns(self) -> None:
        if (self.cluster_column is None) != (self.max_per_cluster is None):
            raise ValueError("--cluster-column and --max-per-cluster go together: both or neither")
        named = {"cluster-column": self.cluster_column, "cost-column": self.cost_column}
        for flag, column in named.items():
            if column is not None and self.unlabeled is not None:
                raise ValueError(
                    f"--{flag} is a column of --csv or an array of --embeddings; folders have none"
                )
            if column is not None and column == self.label_column and self.csv is not None:
                raise ValueError(
                    f"--{flag} must be another column than --label-column; got {column}"
                )
        if self.eval_data is not None and self.query.criterion == "logdet":
            raise ValueError("--eval-data plays no part in --criterion logdet; leave it out")


@Parameter(name="*", negative=())
@dataclass(frozen=True)
class Telling:
    """What is told beside the results.

    Attributes:
        verbose: Say each step, and trace errors.
        traceback: Trace an error to where it was raised.
    """

    verbose: bool = False
    traceback: bool = False


@Parameter(name="*")
@dataclass(frozen=True)
class ImportOptions:
    """Which images labels belong to, and where to write them.

    Attributes:
        out: CSV to write, for --csv of select; must not exist.
        pool: pool.csv of the select that the tasks are from (default: as the tasks say).
    """

    out: Path = Path("labels.csv")
    pool: Path | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class PlotOptions:
    """Which runs to draw, and against what.

    Attributes:
        out: Folder of the pictures (default: DIR/pictures).
        target: Accuracy whose labels are counted (default: where the baseline ends).
        baseline: Strategy that the others are compared with (default: random, or the last one).
        data_root: Where the data of the runs are now.
    """

    out: Path | None = None
    target: float | None = None
    baseline: str | None = None
    data_root: str | None = None

    def __post_init__(self) -> None:
        if self.target is not None and not 0 < self.target <= 1:
            raise ValueError(f"target must be in (0, 1]; got {self.target}")
