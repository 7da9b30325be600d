"""Depth for photos: any depth model of `transformers`, behind the contract of `MirageDepthModel.predict`."""

import torch
import transformers
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor

from mirage_nb.files import to_one_line
from mirage_nb.models.vae import as_uint8

DEPTH_ANYTHING = "depth-anything/Depth-Anything-V2-Metric-Indoor-Small-hf"
# Families that always predict metres. Depth Anything says in its configuration what it predicts.
METRIC = ("zoedepth", "depth_pro", "glpn", "prompt_depth_anything", "metric3d")


def load_pretrained(argument: str, kind: str, name: str, *autos):
    """A model in float32 and its image processor, by its name on the hub or its folder; safetensors only.

    The first of transformers' auto classes that fits is taken; `argument` and `kind` are words for errors:
    FileNotFoundError or ValueError, where it is not there, or is another kind of model.
    """
    for auto in autos:
        try:
            options = {"use_safetensors": True, "trust_remote_code": False, "dtype": "float32"}
            model, found = getattr(transformers, auto).from_pretrained(name, output_loading_info=True, **options)
            if missing := sorted(found["missing_keys"]):
                raise FileNotFoundError(f"{argument}: {name} lacks weights, such as {missing[0]}")
            return model.eval(), transformers.AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(f"{argument}: {name} can't be loaded ({reason})") from None
        except RuntimeError as error:  # weights of other shapes
            raise ValueError(f"{argument}: {name} can't be loaded ({to_one_line(error):.200})") from None
        except (ValueError, KeyError):
            continue
    raise ValueError(f"{argument}: {name} is no {kind} of transformers")


class TransformersDepth(ModelMixin, ConfigMixin):
    """A depth model by name (paper: Depth Anything 3; here what `transformers` has, by default Depth Anything V2).

    A metric model predicts z-depth in metres. A relative one predicts inverse depth up to a scale and a shift, which
    `depth_alignment.align_depth` finds. The configurations are dictionaries as transformers saves them.
    """

    @register_to_config
    def __init__(self, model_config: dict, processor_config: dict) -> None:
        super().__init__()
        config = transformers.AutoConfig.for_model(**model_config)
        self.model = transformers.AutoModelForDepthEstimation.from_config(config)
        self.processor = getattr(transformers, processor_config["image_processor_type"]).from_dict(processor_config)

    @classmethod
    def from_transformers(cls, name: str = DEPTH_ANYTHING) -> "TransformersDepth":
        """Load a depth model by its name on the hub, or from a folder; see `load_pretrained` for its errors."""
        model, processor = load_pretrained("depth", "depth model", str(name), "AutoModelForDepthEstimation")
        settings = processor.to_dict() | {"image_processor_type": type(processor).__name__}
        with torch.device("meta"):
            estimator = cls(model.config.to_dict(), settings)
        estimator.model = model
        return estimator.eval()

    @property
    def relative(self) -> bool:
        """Whether predictions are inverse depth, without scale and shift."""
        by_family = "metric" if self.config.model_config["model_type"] in METRIC else "relative"
        return (self.config.model_config.get("depth_estimation_type") or by_family) != "metric"

    def forward(self, pixels: Tensor) -> Tensor:
        """The model's own prediction (N, H, W) for pixels (N, 3, H, W) in [-1, 1]."""
        images = list(as_uint8(pixels).cpu().numpy())
        inputs = self.processor(images=images, return_tensors="pt", input_data_format="channels_last")
        outputs = self.model(inputs["pixel_values"].to(pixels.device, self.dtype))
        found = self.processor.post_process_depth_estimation(outputs, [tuple(pixels.shape[2:])] * len(images))
        return torch.stack([each["predicted_depth"].float() for each in found])

    @torch.no_grad()
    def predict(self, pixels: Tensor, intrinsics: Tensor) -> Tensor:
        """Depth (N, H, W), float32, of pixels (N, 3, H, W) in [-1, 1], 0 = unknown; these models see no intrinsics."""
        with torch.autocast(pixels.device.type, enabled=False):
            depth = torch.cat([self(frame) for frame in pixels.float().split(1)])
        return torch.where(depth.isfinite() & (depth > 0), depth, 0.0)
