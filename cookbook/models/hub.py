"""Finding weights and data: what ships is in assets/, the rest is downloaded once from the Hub at a pinned revision."""

import re
import shlex
import shutil
from pathlib import Path

from cookbook import runs
from cookbook.errors import UserError
from cookbook.profiles import Source


def locate(source: Source) -> Path:
    """The local folder of a source, downloaded first where it does not ship.

    Raises:
        UserError: missing token (401), licence not accepted (403), no such repository (404), offline, or disk full,
            each with what to do.
    """
    if source.ships:
        folder = runs.ASSETS / source.location
        if not folder.is_dir():
            raise UserError(f"{folder} is missing: this checkout is incomplete, clone it again")
        return folder
    from huggingface_hub import constants, snapshot_download

    cache = Path(constants.HF_HUB_CACHE)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{cache}: {error.strerror}; set HF_HOME to a folder that you can write") from None
    if (folder := local(source)) is not None:
        return folder
    require_settings()
    if (free := shutil.disk_usage(cache).free / 1e9) < source.gigabytes * 1.1:
        raise UserError(
            f"{source.location} needs {source.gigabytes:.1f} GB and {cache} has {free:.1f} GB free; "
            "free some space or set HF_HOME to a larger disk"
        )
    try:
        return Path(snapshot_download(source.location, repo_type=source.kind, revision=source.revision))
    except OSError as error:  # all errors of the Hub are
        raise UserError(f"{source.location}: {_explain(error, source, cache)}") from None


def require_settings() -> None:
    """Refuse an impossible address or token of the Hub: the libraries answer with errors of their own."""
    from huggingface_hub import constants, get_token

    if not re.match(r"https?://\S+$", constants.ENDPOINT):
        right = "https://" + constants.ENDPOINT.split("://")[-1].strip()
        raise UserError(f"HF_ENDPOINT is {constants.ENDPOINT!r}: type `export HF_ENDPOINT={shlex.quote(right)}`")
    if (token := get_token()) and not re.fullmatch("[!-~]+", token):
        wrong = re.search("[^!-~]", token)[0]
        raise UserError(f"the Hub token (HF_TOKEN) holds {wrong!a}, which is invalid: copy it again, without quotes")


def local(source: Source) -> Path | None:
    """The local folder of a source of the Hub if it is there already; never touches the network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    where = {"repo_id": source.location, "repo_type": source.kind, "revision": source.revision}
    try:
        return Path(snapshot_download(**where, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _explain(error: Exception, source: Source, cache: Path) -> str:
    """Why a download failed, and what to do."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error, PermissionError):
        return f"{cache} cannot be written; set HF_HOME to a folder that you can write"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) and status != 401:
        return f"403; accept its licence at {source.page} with the account of your token"
    if isinstance(error, RepositoryNotFoundError):
        return f"{status}; type `hf auth login`, or check that {source.page} exists"
    if constants.HF_HUB_OFFLINE:
        return f"not in {cache}, and HF_HUB_OFFLINE is set; unset it, or copy the files there"
    if isinstance(error, HfHubHTTPError):
        return f"the Hub answered {error}; try again later"
    return f"not in {cache}, and the Hub cannot be reached ({error}); connect this machine to the internet"
