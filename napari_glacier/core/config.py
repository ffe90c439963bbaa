"""The configuration of a training run: one tree for the YAML file, the command line and the widget's form.

`version` is the schema's version. A file given by hand, a recipe and the copy kept in a run folder
are the same schema; `config_files` finds, reads and writes them.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from napari_glacier.core.bands import CANONICAL_BANDS
from napari_glacier.core.channels import check_channels
from napari_glacier.core.classes import SCHEMES
from napari_glacier.core.correction.reviews import ReviewDemand

# The loss looks at the weights of all its terms together, and says in one sentence what is wrong with them.
_Weight = Annotated[float, Field(allow_inf_nan=True)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


class DataConfig(_Section):
    """Which tiles train, which validate, and what of them the model sees."""

    train: Path = Field(description="Dataset folder to learn from (its root or its train folder).")
    val: Path | None = Field(
        None, description="Dataset folder to validate on; none: the dataset's own val split, else a hold-out."
    )
    train_masks: Path | None = Field(None, description="Folder of training masks where it is not beside the bands.")
    val_masks: Path | None = Field(None, description="Folder of validation masks where it is not beside the bands.")
    scheme: str | None = Field(None, description="Class scheme; none: decided over all masks.")
    channels: list[str] = Field(list(CANONICAL_BANDS), description="The model's input channels, in order.")
    tiles: list[str] | None = Field(None, description="Ids of the tiles to train on; none: all that have a mask.")
    val_tiles: list[str] | None = Field(
        None, description="Ids of the tiles held out for validation; none: chosen, and then written here."
    )
    splits: Path | None = Field(
        None, description="File that says which tile trains, validates, or is of which fold (napari-glacier splits)."
    )
    val_fold: int = Field(1, ge=1, description="Fold of data.splits that validates, where only one model is trained.")
    val_fraction: float = Field(
        0.15, gt=0.0, lt=1.0, description="Share of tiles held out where no validation data are given."
    )
    buffer_px: int | None = Field(
        None,
        ge=0,
        description="Training pixels nearer than this to a held-out tile do not count; none: 128, at most a quarter "
        "of a tile.",
    )
    review: ReviewDemand | None = Field(
        None,
        description="Learn only from tiles that a person has edited or approved (edited), or approved (approved), as "
        "the journal of the data set says; its own val split is held to the same. None: all that have a mask.",
    )
    zero_is_nodata: bool | None = Field(
        None, description="A pixel with all bands zero is nodata; none: yes for satellite bands, no for pictures."
    )
    normalize: Literal["zscore", "percentile"] = Field(
        "zscore",
        description="Scale of a channel over valid training pixels: mean 0 and deviation 1, or 2nd to 98th percentile "
        "0 to 1.",
    )
    mean: list[float] | None = Field(None, description="Mean of each channel; none: pooled over valid training pixels.")
    std: list[Annotated[float, Field(gt=0.0)]] | None = Field(
        None, description="Standard deviation of each channel; none: pooled over valid training pixels."
    )
    workers: int = Field(4, ge=0, description="Loader processes; never more than the cores left over.")

    @field_validator("channels")
    @classmethod
    def _known_channels(cls, value: list[str]) -> list[str]:
        return list(check_channels(value))

    @field_validator("scheme")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value is not None and value not in SCHEMES:
            raise ValueError(f"there is no class scheme {value!r}; known are {', '.join(SCHEMES)}")
        return value

    @model_validator(mode="after")
    def _statistics_fit(self) -> "DataConfig":
        for name, values in (("mean", self.mean), ("std", self.std)):
            if values is not None and len(values) != len(self.channels):
                raise ValueError(f"data.{name} has {len(values)} numbers for {len(self.channels)} channels")
        if (self.mean is None) != (self.std is None):
            raise ValueError("data.mean and data.std go together: give both or neither")
        return self

    @model_validator(mode="after")
    def _one_validation_set(self) -> "DataConfig":
        if self.val is not None and self.val_tiles is not None:
            raise ValueError("data.val and data.val_tiles both say what validates: give one of them")
        if self.splits is not None and (self.val is not None or self.val_masks is not None):
            raise ValueError("data.splits and data.val both say what validates: give one of them")
        return self


class ModelConfig(_Section):
    """The network."""

    name: str = Field("ba_unet", description="Architecture, by its name in the registry.")
    encoder: str | None = Field(
        None, description="Encoder of the network; none: the architecture's own, or its default."
    )
    encoder_weights: str | None = Field(None, description="none, 'imagenet', or a local weight file.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="Further arguments of the architecture.")
    init_from: str | None = Field(None, description="Checkpoint to start from: a path, a run folder, or 'bundled'.")
    frozen_stages: int | Literal["all"] = Field(
        0, description="First stages of the encoder that keep their starting weights: 0 none, 1 the stem, …, or all."
    )

    @field_validator("frozen_stages")
    @classmethod
    def _not_negative(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 0:
            raise ValueError("a number of stages is 0 or more, or the word all")
        return value


class Ramp(_Section):
    """A loss weight that changes evenly from the first epoch on, and then stays."""

    start: _Weight = Field(ge=0.0, description="Weight in the first epoch.")
    end: _Weight = Field(ge=0.0, description="Weight from the last epoch of the ramp on.")
    epochs: int = Field(ge=2, description="Epochs that the ramp takes.")

    def at(self, epoch: int) -> float:
        """Weight in an epoch, counted from 1."""
        done = min(max(epoch - 1, 0) / (self.epochs - 1), 1.0)
        return self.start + (self.end - self.start) * done

    @property
    def final(self) -> float:
        """Weight that the ramp ends with."""
        return self.end


class Steps(_Section):
    """A loss weight that changes at given epochs."""

    steps: dict[int, _Weight] = Field(description="Weight from each of these epochs on; the first is epoch 1.")

    @field_validator("steps")
    @classmethod
    def _from_the_first(cls, value: dict[int, float]) -> dict[int, float]:
        if 1 not in value or min(value) < 1 or min(value.values()) < 0:
            raise ValueError("steps begin with epoch 1, and weights are 0 or more, as in {1: 0.3, 20: 0.2}")
        return dict(sorted(value.items()))

    def at(self, epoch: int) -> float:
        """Weight in an epoch, counted from 1."""
        return next(weight for first, weight in reversed(self.steps.items()) if first <= max(epoch, 1))

    @property
    def final(self) -> float:
        """Weight that the steps end with."""
        return self.at(max(self.steps))


class LossConfig(_Section):
    """A weighted sum of masked losses."""

    terms: dict[str, _Weight | Ramp | Steps] = Field(
        {"focal": 0.6, "dice": 0.4},
        description="Weight of each loss: a number, {start, end, epochs} (a ramp), or {steps: {1: a, 20: b}}.",
    )
    focal_gamma: float = Field(2.0, ge=0.0, description="Focusing exponent of the focal loss.")
    focal_alpha: list[float] | None = Field(
        None, description="Weight of each class in the focal loss; none: 1, 2, 3, 4 (four classes), else 1."
    )
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of the truth spread over all classes, in cross-entropy and focal loss."
    )
    dice_smooth: float = Field(1.0, gt=0.0, description="Pixels added above and below the fraction of the Dice loss.")
    boundary_weight: float = Field(3.0, ge=1.0, description="Weight of pixels on a class boundary (boundary loss).")
    interface_weight: float = Field(5.0, ge=1.0, description="Weight of pixels where debris meets ice (boundary loss).")
    mcc_phi: float = Field(
        0.0, ge=0.0, description="Exponent by which the MCC loss looks away from easy pixels; 0: all count alike."
    )
    tversky: tuple[float, float] = Field(
        (0.3, 0.7), description="Weights of false positives and false negatives in the Tversky loss."
    )
    focal_iou_alpha: float = Field(1.0, gt=0.0, description="Factor of the focal IoU loss.")
    focal_iou_gamma: float = Field(2.0, ge=0.0, description="Exponent of the focal IoU loss.")

    @field_validator("focal_alpha")
    @classmethod
    def _some_class_counts(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and max(value, default=0.0) <= 0:
            raise ValueError("one of the weights must be above 0")
        return value


class DistillConfig(_Section):
    """Learning from the soft answers of trained models; the loss term is called kl."""

    teachers: list[str] = Field(
        min_length=1, description="Models to learn from, each as in model.init_from; their probabilities are averaged."
    )
    temperature: float = Field(2.0, gt=0.0, description="How far the answers are softened.")


class SamplingConfig(_Section):
    """Which crops a training epoch sees."""

    kind: Literal["balanced", "uniform", "tile_weighted", "cover"] = Field(
        "balanced",
        description="Crops drawn towards a target mix of classes, any crop, more of the tiles near the target mix, or "
        "crops that cover all tiles, each once an epoch.",
    )
    crop_px: int = Field(256, ge=32, description="Side of a training crop in pixels.")
    pixels_per_crop: int | None = Field(
        None,
        ge=1,
        description="Learn so many single pixels of each crop, mixed over all crops of an epoch; only for networks "
        "that look around in a fixed way (surroundings). None: whole crops.",
    )
    crops_per_epoch: int | None = Field(
        None, ge=1, description="Crops an epoch; none: as many as cover the training tiles once."
    )
    target_mix: list[Annotated[float, Field(ge=0.0)]] | None = Field(
        None, description="Wanted share of each class; none: 10/35/40/15 %, two classes 50/50."
    )
    max_repeats: float = Field(
        20.0, ge=1.0, description="How much oftener than by uniform sampling a place may be drawn."
    )
    interface_boost: float = Field(
        3.0, ge=1.0, description="How much oftener crops are drawn in which debris meets ice (balanced sampling)."
    )

    @field_validator("target_mix")
    @classmethod
    def _something_wanted(cls, value: list[float] | None) -> list[float] | None:
        if value is not None and max(value, default=0.0) <= 0:
            raise ValueError("one of the shares must be above 0")
        return value


class AugmentationConfig(_Section):
    """Random changes of a training crop; 0 turns one off."""

    flips: float = Field(0.5, ge=0.0, le=1.0, description="Probability of each flip.")
    rot90: float = Field(0.5, ge=0.0, le=1.0, description="Probability of a turn by a multiple of 90 degrees.")
    affine: float = Field(0.3, ge=0.0, le=1.0, description="Probability of a shift, scale and rotation.")
    shift: float = Field(0.05, ge=0.0, le=0.5, description="Largest shift as a share of the crop.")
    scale: float = Field(0.2, ge=0.0, lt=1.0, description="Largest change of scale as a share.")
    rotate_deg: float = Field(45.0, ge=0.0, le=180.0, description="Largest rotation in degrees.")
    elastic: float = Field(0.0, ge=0.0, le=1.0, description="Probability of an elastic deformation.")
    grid_distortion: float = Field(0.0, ge=0.0, le=1.0, description="Probability of a grid distortion.")
    brightness_contrast: float = Field(
        0.2, ge=0.0, le=1.0, description="Probability of a change of brightness and contrast."
    )
    gamma: float = Field(0.0, ge=0.0, le=1.0, description="Probability of a change of gamma.")
    noise: float = Field(0.1, ge=0.0, le=1.0, description="Probability of Gaussian noise.")
    blur: float = Field(0.1, ge=0.0, le=1.0, description="Probability of a Gaussian blur.")
    spare: list[str] = Field(
        default_factory=list,
        description="Channels that brightness, gamma, noise and blur leave alone, as they do elevation and slope: B10, "
        "where temperature tells how high a place lies.",
    )

    @field_validator("spare")
    @classmethod
    def _known_channels(cls, value: list[str]) -> list[str]:
        return list(check_channels(value)) if value else value


_Momentum = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimConfig(_Section):
    """AdamW with warm-up and a schedule."""

    lr: float = Field(5e-4, gt=0.0, description="Peak learning rate.")
    encoder_lr: float | None = Field(None, gt=0.0, description="Peak learning rate of the encoder; none: the same.")
    schedule: Literal["plateau", "cosine"] = Field(
        "plateau", description="Lower the rate where progress ends, or along a cosine to min_lr over all epochs."
    )
    weight_decay: float = Field(1e-4, ge=0.0, description="Decoupled weight decay.")
    betas: tuple[_Momentum, _Momentum] = Field((0.9, 0.999), description="AdamW's momentum terms.")
    warmup_steps: int = Field(50, ge=0, description="Steps of linear warm-up.")
    clip_norm: float = Field(1.0, ge=0.0, description="Largest gradient norm; 0 turns clipping off.")
    plateau_factor: float = Field(0.5, gt=0.0, lt=1.0, description="Factor on the learning rate at a plateau.")
    plateau_patience: int = Field(5, ge=0, description="Epochs without progress before the learning rate falls.")
    min_lr: float = Field(1e-7, ge=0.0, description="Smallest learning rate.")


class TrainConfig(_Section):
    """The loop."""

    epochs: int = Field(60, ge=1, description="Epochs at most.")
    batch_size: int = Field(8, ge=1, description="Crops a step, over all processes.")
    pixels: int = Field(
        1024, ge=2, description="Pixels a step, over all processes, where single pixels are learnt (pixels_per_crop)."
    )
    accumulate: int = Field(1, ge=1, description="Steps whose gradients are summed before an update.")
    amp: Literal["auto", "off", "bf16", "fp16"] = Field(
        "auto", description="Mixed precision; auto: bf16 where the device has it."
    )
    patience: int = Field(15, ge=1, description="Epochs without progress before training stops.")
    min_delta: float = Field(0.001, ge=0.0, description="What counts as progress.")
    monitor: Literal["val_mcc", "val_loss", "none"] = Field(
        "val_mcc",
        description="What best and early stopping go by; none: the last epoch is the model, so that scores on the "
        "validation tiles do not flatter it.",
    )
    ema: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Decay of a running mean of the weights, which is then validated and saved; 0: none, usual: 0.999.",
    )
    max_size_mb: float = Field(200.0, gt=0.0, description="Largest checkpoint in MB before a warning.")
    max_ensemble_mb: float = Field(300.0, gt=0.0, description="Largest ensemble of folds or members before a warning.")

    @field_validator("amp", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare `off` as false.
        return "off" if value is False else value


class ScoringConfig(_Section):
    """How the predictions out of fold are made and scored."""

    tta: Literal["off", 2, 6, 8] = Field("off", description="Views of test-time augmentation: off, 2, 6 or 8.")
    draws: int = Field(10_000, ge=100, description="Of the bootstrap over tiles that gives the intervals.")

    @field_validator("tta", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        # YAML 1.1 reads a bare `off` as false.
        return "off" if value is False else value


class RunConfig(_Section):
    """Everything that decides a training run."""

    version: Literal[1] = Field(1, description="Version of this schema.")
    recipe: str | None = Field(None, description="Recipe that this configuration started from.")
    output: Path = Field(Path("runs"), description="Folder in which the run folder is made.")
    seed: int = Field(0, ge=0, description="Seed of every random draw.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    save_path: Path | None = Field(
        None, description="Also put the best weights here; a name ending in .pth gets a plain state dict beside it."
    )
    folds: int | None = Field(
        None, ge=2, description="Cross-validation: so many models, each scored on the tiles that it has not seen."
    )
    members: int = Field(1, ge=1, description="Models trained with seeds of their own, for an ensemble.")
    loggers: list[Literal["tensorboard", "wandb"]] = Field(
        default_factory=list, description="Also log to these; each is an extra to install."
    )
    data: DataConfig = Field(description="Data.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="Network.")
    loss: LossConfig = Field(default_factory=LossConfig, description="Loss.")
    distill: DistillConfig | None = Field(None, description="Distillation; none: the masks alone teach.")
    sampling: SamplingConfig = Field(default_factory=SamplingConfig, description="Sampling of crops.")
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig, description="Augmentation.")
    optim: OptimConfig = Field(default_factory=OptimConfig, description="Optimiser.")
    train: TrainConfig = Field(default_factory=TrainConfig, description="Loop.")
    scoring: ScoringConfig = Field(default_factory=ScoringConfig, description="Scores out of fold.")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> "RunConfig":
        if (self.distill is not None) != ("kl" in self.loss.terms):
            raise ValueError("distill.teachers and the loss term kl go together: give both or neither")
        if self.distill is not None and self.sampling.pixels_per_crop is not None:
            raise ValueError("teachers look at whole crops: leave out distill, or sampling.pixels_per_crop")
        if self.train.monitor == "none" and self.optim.schedule == "plateau":
            raise ValueError("train.monitor is none, and a plateau is seen on what it names: set optim.schedule=cosine")
        if self.folds is not None and self.members > 1:
            raise ValueError("folds and members both ask for several models: give one of them")
        if self.save_path is not None and (self.folds is not None or self.members > 1):
            raise ValueError("save_path names one file, and several models are asked for: leave it out")
        return self
