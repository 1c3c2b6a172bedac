"""`cookbook prepare`: check every clip and caption, then lay them out as training and evaluation folders."""

from functools import partial
from pathlib import Path

from cookbook import profiles, runs, storage
from cookbook.errors import UserError, count
from cookbook.layout import Clip, Photo, find_clips, read_photos, read_text, require_folder, write_pair, write_training
from cookbook.models.hub import locate
from cookbook.profiles import Profile
from cookbook.show import progress
from cookbook.video import probe, read_image


@runs.releasing
def prepare(
    profile: str = "nano",
    run: Path | str | None = None,
    train: Path | None = None,
    eval: Path | None = None,
    skip_bad: bool = False,
    redo: bool = False,
) -> dict:
    """Build `data/train` (videos, metas, metadata.csv) and `data/eval` (photo and instruction pairs) of a run.

    Args:
        profile: name of a profile; `cookbook doctor` lists them.
        run: run folder; runs/<profile> when empty.
        train: folder of clips with captions in any layout that `find_clips` reads; the profile's data when empty.
        eval: folder of photos with instructions; the profile's when empty.
        skip_bad: leave unusable clips out and record them in `data/skipped.jsonl` instead of stopping.
        redo: empty the folder first, once all clips and photos have been checked.

    Returns:
        The manifest, with the facts `clips`, `photos`, `skipped`.

    Raises:
        UserError: with the list of all unusable clips and their reasons, unless `skip_bad`.
    """
    chosen = profiles.get(profile)
    root = runs.run_folder(run, profile)
    clips_from = Path(train) if train else locate(chosen.train_data)
    photos_from = Path(eval) if eval else locate(chosen.eval_data)
    if not eval and (photos_from / chosen.eval_subset).is_dir():
        photos_from /= chosen.eval_subset
    for folder in (clips_from, photos_from):
        require_folder(folder)
    inputs = {"clips": runs.fingerprint(clips_from), "photos": runs.fingerprint(photos_from)}
    settings = {"prefix": chosen.prompt_prefix, "train_clips": chosen.train_clips, "skip_bad": skip_bad}

    check = partial(_check, clips_from, photos_from, chosen, skip_bad)
    checked = check() if redo else None  # before the folder is emptied for it
    stage = runs.enter(root / "data", "prepare", profile, inputs, settings, redo)
    if stage.done:
        return stage.manifest
    clips, problems, photos = checked or check()
    write_training(stage.folder / "train", clips, chosen.prompt_prefix)
    for photo in photos:  # each pair under one stem: this corrects the published misnamed pair
        image = stage.folder / "eval" / f"{photo.name}{photo.image.suffix.lower()}"
        write_pair(photo.image, image, photo.prompt, stage.folder / "eval" / f"{photo.name}.txt")
    if problems:
        storage.write_rows(stage.folder / "skipped.jsonl", problems)
    outputs = storage.contents(stage.folder)
    print(f"prepare: {count(len(clips), 'clip')}, {count(len(photos), 'photo')}, {len(problems)} skipped")
    return stage.finish(outputs, clips=len(clips), photos=len(photos), skipped=len(problems))


def _check(
    clips_from: Path, photos_from: Path, profile: Profile, skip_bad: bool
) -> tuple[list[Clip], list[dict], list[Photo]]:
    """Usable clips, the problems of the others, and photos; an error where they are not good enough to go on."""
    print(f"prepare: clips from {clips_from}, photos from {photos_from}")
    clips, problems = check_clips(clips_from, profile)
    if problems and not skip_bad:
        lines = "\n".join(f"  {row['file']}: {row['reason']}" for row in problems)
        raise UserError(f"{count(len(problems), 'clip')} cannot be used (--skip-bad leaves them out):\n{lines}")
    if not clips:
        raise UserError(f"{clips_from}: none of its {count(len(problems), 'clip')} can be used")
    photos = read_photos(photos_from)
    for photo in photos:
        read_image(photo.image)  # refuses a file that is not an image
    return clips, problems, photos


def check_clips(folder: Path, profile: Profile) -> tuple[list[Clip], list[dict]]:
    """Decode every clip and read every caption; usable clips, and {file, reason} for each of the others."""
    clips, problems, found = [], [], find_clips(folder, profile.prompt_prefix)
    if (most := profile.train_clips) and len(found) > most:
        print(f"prepare: profile {profile.name} takes the first {most} of {len(found)} clips")
    for video, caption in progress(found[:most], "checking clips"):
        try:
            if isinstance(caption, UserError):
                raise caption
            prompt = caption if isinstance(caption, str) else read_text(caption)
            info = probe(video)
            if info.spare(profile.clip, profile.recipe.resample) < 0:
                raise UserError(
                    f"{info.frames} frames at {info.fps:.3g} fps are shorter than one training window "
                    f"({profile.clip.frames} frames at {profile.clip.fps} fps)"
                )
            clips.append(Clip(video, prompt.removeprefix(profile.prompt_prefix).strip()))
        except UserError as error:
            problems.append({"file": str(video), "reason": str(error).removeprefix(f"{video}: ")})
    return clips, problems
