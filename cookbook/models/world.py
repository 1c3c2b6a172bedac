"""Loading the parts of the world model from a diffusers folder: transformer, VAE, text encoder, tokenizer."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from cookbook import storage
from cookbook.errors import UserError, last_line
from cookbook.layout import files
from cookbook.models import names, sizes
from cookbook.models.autoencoder import channels_last

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
    from transformers import PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

TRANSFORMERS, DIFFUSERS = "model", "diffusion_pytorch_model"  # what each library calls its weight files


def load_transformer(
    folder: Path, dtype: torch.dtype = torch.float32, native: Path | None = None
) -> CosmosTransformer3DModel:
    """The denoiser from `folder/transformer`, on the CPU. Every weight must be there and have the right shape.

    Args:
        native: a `.pt` file in NVIDIA's names; its `net.*` replace the folder's weights.
    """
    from diffusers import CosmosTransformer3DModel

    path = folder / "transformer"
    model = CosmosTransformer3DModel.from_config(sizes.read_config(folder))
    state: dict[str, torch.Tensor] = {}
    if native:
        tensors = read_native(native)
        state = names.as_diffusers({name: tensors[name] for name in tensors if name.startswith(names.NET)})
    else:
        for file in weight_files(path, DIFFUSERS):
            state |= load_file(file)
    shapes, expected = ({name: tensor.shape for name, tensor in s.items()} for s in (state, model.state_dict()))
    require_shapes(shapes, expected, native or path, folder)
    for name, tensor in state.items():
        finite(tensor, name, native or path)
    model.load_state_dict(state)
    return model if dtype == torch.float32 else model.to(dtype)


def weight_files(folder: Path, name: str) -> list[Path]:
    """The weight files of one model: those that its index lists, or the one of the standard name.

    Args:
        name: `TRANSFORMERS` or `DIFFUSERS`.

    Raises:
        UserError: one is missing, or another .safetensors is there: it might be the one that was meant.
    """
    index, wanted = folder / f"{name}.safetensors.index.json", {f"{name}.safetensors"}
    if index.exists():
        try:
            wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{index} is damaged; copy or download it again") from None
    found = {path.name for path in files(folder, (".safetensors",))}
    if lost := sorted(wanted - found):
        raise UserError(f"{folder / lost[0]} is missing: copy or download the model again")
    if other := sorted(found - wanted):
        raise UserError(f"{folder / other[0]} is not what the model is loaded from ({min(wanted)}); move it elsewhere")
    return [folder / file for file in sorted(wanted)]


def finite(tensor: torch.Tensor, name: str, origin: Path) -> torch.Tensor:
    """The tensor; a UserError where a number of it is NaN or infinite."""
    if not tensor.is_meta and not tensor.isfinite().all():
        raise UserError(f"{origin}: {name} holds NaN or infinity; take another copy or an earlier checkpoint")
    return tensor


def load_pretrained(model: Any, folder: Path, name: str, **settings: Any) -> Any:
    """A model by its own `from_pretrained`, which would fill what is missing with random numbers.

    Raises:
        UserError: a file or tensor is missing, has another shape, or is not finite; or there is a file too many.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"{folder} is not a model folder: config.json is missing")
    weight_files(folder, name)
    loaded, found = model.from_pretrained(folder, output_loading_info=True, **settings)
    if lost := sorted(map(str, [*found["missing_keys"], *found["mismatched_keys"]])):
        raise UserError(f"{folder}: {len(lost)} weights are missing or of another shape ({', '.join(lost[:3])})")
    for key, tensor in loaded.state_dict().items():
        finite(tensor, key, folder)
    return loaded


def read_native(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt` file in NVIDIA's names, `net.*` and perhaps `net_ema.*`, mapped and not loaded.

    Bookkeeping entries are left out.

    Raises:
        UserError: the file is damaged, holds more than tensors, or is no world model in this form.
    """
    try:
        with torch.serialization.safe_globals([io.BytesIO, bytes]):  # TransformerEngine's _extra_state
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        raise UserError(f"{path} is damaged or holds more than tensors ({last_line(error)})") from None
    state = {
        name: value
        for name, value in (content.items() if isinstance(content, dict) else ())
        if isinstance(value, torch.Tensor) and names.to_diffusers(name.removeprefix(names.EMA)) is not None
    }
    if not any(name.startswith(names.NET) for name in state):
        raise UserError(f"{path} holds no weights named {names.NET}*: not a world model in NVIDIA's native form")
    return state


def require_shapes(
    shapes: Mapping[str, torch.Size], expected: Mapping[str, torch.Size], origin: Path, models: Path
) -> None:
    """Refuse weights of `origin` if their names or shapes are not those of the network of `models`."""
    problems = [f"missing {name}" for name in expected.keys() - shapes.keys()]
    problems += [f"unexpected {name}" for name in shapes.keys() - expected.keys()]
    problems += [
        f"{name} is {list(shapes[name])}, expected {list(expected[name])}"
        for name in expected.keys() & shapes.keys()
        if shapes[name] != expected[name]
    ]
    if problems:
        examples = "; ".join(sorted(problems)[:3])
        raise UserError(
            f"{origin}: {len(problems)} weights do not fit the network of {models} ({examples}); is it another model?"
        )


def load_vae(folder: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    """The video autoencoder from `folder/vae`, frozen, on the CPU."""
    from diffusers import AutoencoderKLWan

    vae = load_pretrained(AutoencoderKLWan, folder / "vae", DIFFUSERS, torch_dtype=dtype)
    return channels_last(vae).eval().requires_grad_(False)


def load_text_encoder(
    folder: Path, dtype: torch.dtype = torch.float32
) -> tuple[Qwen2_5_VLForConditionalGeneration, PreTrainedTokenizerBase]:
    """The language model that turns prompts into conditioning, frozen, on the CPU, and its tokenizer."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    model = load_pretrained(Qwen2_5_VLForConditionalGeneration, folder / "text_encoder", TRANSFORMERS, dtype=dtype)
    return model.eval().requires_grad_(False), load_tokenizer(folder)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The text encoder's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def require_fitting(folder: Path) -> None:
    """Refuse a diffusers folder with a transformer that cannot be loaded, by the headers of its files alone."""
    network, shapes = sizes.on_meta(sizes.read_config(folder)), {}
    for file in weight_files(folder / "transformer", DIFFUSERS):
        try:
            with safe_open(file, "pt") as opened:
                shapes |= {name: torch.Size(opened.get_slice(name).get_shape()) for name in opened.keys()}
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({last_line(error)}); copy or download it again") from None
    expected = {name: tensor.shape for name, tensor in network.state_dict().items()}
    require_shapes(shapes, expected, folder / "transformer", folder)


def weights_fingerprint(folder: Path) -> str:
    """One hash over the transformer's weight files, as kept in every row of generated.jsonl."""
    return storage.digest_of([storage.digest(file) for file in weight_files(folder / "transformer", DIFFUSERS)])
