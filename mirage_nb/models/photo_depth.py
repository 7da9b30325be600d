"""Depth for photos: any depth model of `transformers`, behind the contract of `MirageDepthModel.predict`."""

from __future__ import annotations

import torch
import transformers
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from mirage_nb.models.vae import as_uint8

DEPTH_ANYTHING = "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
# Families that always predict metres. Depth Anything says in its configuration what it predicts.
METRIC = ("zoedepth", "depth_pro", "glpn", "prompt_depth_anything", "metric3d")


class TransformersDepth(ModelMixin, ConfigMixin):
    """A depth model by name (paper: Depth Anything 3; here what `transformers` has, by default Depth Anything V2).

    A metric model predicts z-depth in metres. A relative one predicts inverse depth up to a scale and a shift;
    `depth_alignment.align_depth` finds both from the memory or a given depth.

    Args:
        model_config: the model's configuration as a dictionary, `model_type` included.
        processor_config: the image processor's, `image_processor_type` included.
        metric: whether the model predicts metres.
        name: of the model, for messages.
    """

    @register_to_config
    def __init__(self, model_config: dict, processor_config: dict, metric: bool, name: str = "") -> None:
        super().__init__()
        options = {key: value for key, value in model_config.items() if key != "model_type"}
        config = transformers.AutoConfig.for_model(model_config["model_type"], **options)
        self.model = transformers.AutoModelForDepthEstimation.from_config(config)
        self.processor = getattr(transformers, processor_config["image_processor_type"]).from_dict(processor_config)

    @classmethod
    def from_transformers(
        cls, name: str = DEPTH_ANYTHING, metric: bool | None = None, dtype: torch.dtype = torch.float32
    ) -> TransformersDepth:
        """Load a depth model by its name on the hub, or from a folder.

        Args:
            metric: whether it predicts metres, for a model whose configuration does not say.

        Raises:
            FileNotFoundError: it is not there, or the hub can't be reached.
            ValueError: it is no depth model.
        """
        name = str(name)
        try:
            model = transformers.AutoModelForDepthEstimation.from_pretrained(name, use_safetensors=True, dtype=dtype)
            processor = transformers.AutoImageProcessor.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).strip().splitlines()[0]
            if isinstance(error, OSError):
                raise FileNotFoundError(f"depth: {name} can't be loaded ({reason})") from None
            raise ValueError(f"depth: {name} is no depth model of transformers ({reason})") from None
        if metric is None:
            kind = getattr(model.config, "depth_estimation_type", None)
            metric = kind == "metric" if kind else model.config.model_type in METRIC
        settings = processor.to_dict() | {"image_processor_type": type(processor).__name__}
        with torch.device("meta"):
            whole = cls(model.config.to_dict(), settings, bool(metric), name)
        whole.model = model
        return whole.eval()

    @property
    def relative(self) -> bool:
        """Whether predictions are inverse depth, without scale and shift."""
        return not self.config.metric

    def forward(self, pixels: Tensor) -> Tensor:
        """The model's own prediction (N, H, W) for pixels (N, 3, H, W) in [-1, 1]."""
        images = list(as_uint8(pixels).cpu().numpy())
        inputs = self.processor(images=images, return_tensors="pt", input_data_format="channels_last")
        outputs = self.model(inputs["pixel_values"].to(pixels.device, self.dtype))
        sizes = [tuple(pixels.shape[2:])] * len(images)
        found = self.processor.post_process_depth_estimation(outputs, target_sizes=sizes)
        return torch.stack([each["predicted_depth"].float() for each in found])

    @torch.no_grad()
    def predict(self, pixels: Tensor, intrinsics: Tensor) -> Tensor:
        """Depth (N, H, W), float32, of pixels (N, 3, H, W) in [-1, 1], frame by frame.

        Metres for a metric model; inverse depth up to scale and shift if `relative`. `intrinsics` (N, 4) are part of
        the contract; these models see only pixels.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            depth = torch.cat([self(frame) for frame in pixels.float().split(1)])
        return torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
