"""Stage `convert`: a training checkpoint becomes the published weight files and a diffusers folder."""
