"""Stage `prepare`: training clips with captions and held-out photos with instructions, in the published layouts."""
