"""Loading the world model and its companions from a diffusers folder: transformer, VAE, text encoder, tokenizer."""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, CosmosTransformer3DModel
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2_5_VLForConditionalGeneration

from cookbook import runs
from cookbook.errors import UserError
from cookbook.models import names
from cookbook.models.autoencoder import channels_last


@dataclass
class TextEncoder:
    """The language model that turns prompts into conditioning, with its tokenizer."""

    model: Qwen2_5_VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerBase


def load_transformer(
    folder: Path, dtype: torch.dtype = torch.float32, native: Path | None = None
) -> CosmosTransformer3DModel:
    """The denoiser from `folder/transformer`, on the CPU. Every weight must be there and have the right shape.

    Args:
        native: a `.pt` file in NVIDIA's names whose `net.*` are loaded instead of the folder's weights.
    """
    path = folder / "transformer"
    _require(path / "config.json", folder)
    model = CosmosTransformer3DModel.from_config(CosmosTransformer3DModel.load_config(path))
    state: dict[str, torch.Tensor] = {}
    if native:
        found = read_native(native)
        state = names.as_diffusers({name: found[name] for name in found if name.startswith(names.NET)})
    else:
        for file in sorted(path.glob("*.safetensors")):
            state |= load_file(file)
    load_strictly(model, state, native or path)
    return model if dtype == torch.float32 else model.to(dtype)


def read_native(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a `.pt` file in NVIDIA's names, `net.*` and perhaps `net_ema.*`, mapped and not loaded.

    Bookkeeping entries are left out.

    Raises:
        UserError: the file is missing or damaged, holds more than tensors, or is no world model in this form.
    """
    try:
        with torch.serialization.safe_globals([io.BytesIO, bytes]):  # TransformerEngine's _extra_state
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        raise UserError(f"{path} is damaged or holds more than tensors ({reason})") from None
    state = {
        name: value
        for name, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(value, torch.Tensor) and names.to_diffusers(name.removeprefix(names.EMA)) is not None
    }
    if not any(name.startswith(names.NET) for name in state):
        raise UserError(f"{path} holds no weights named {names.NET}*: not a world model in NVIDIA's native form")
    return state


def load_strictly(model: torch.nn.Module, state: dict[str, torch.Tensor], origin: Path) -> None:
    """Load a state dict and refuse any name or shape that does not match, naming the first few."""
    expected = model.state_dict()
    problems = [f"missing {name}" for name in expected.keys() - state.keys()]
    problems += [f"unexpected {name}" for name in state.keys() - expected.keys()]
    problems += [
        f"{name} is {list(state[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:5])
        raise UserError(f"{origin}: {len(problems)} weights do not fit this network ({shown}); is it another model?")
    model.load_state_dict(state)


def load_vae(folder: Path, dtype: torch.dtype = torch.float32) -> AutoencoderKLWan:
    _require(folder / "vae" / "config.json", folder)
    vae = AutoencoderKLWan.from_pretrained(folder / "vae", torch_dtype=dtype)
    return channels_last(vae).eval().requires_grad_(False)


def load_text_encoder(folder: Path, dtype: torch.dtype = torch.float32) -> TextEncoder:
    _require(folder / "text_encoder" / "config.json", folder)
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "text_encoder", dtype=dtype)
    return TextEncoder(model.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder / "tokenizer"))


def _require(file: Path, folder: Path) -> None:
    if not file.exists():
        raise UserError(f"{folder} is not a diffusers model folder: {file.relative_to(folder)} is missing")


def weights_fingerprint(folder: Path) -> str:
    """One hash over the transformer's weight files, as kept in every row of generated.jsonl."""
    files = sorted((folder / "transformer").glob("*.safetensors"))
    return runs.digest_of([runs.digest(file) for file in files])
