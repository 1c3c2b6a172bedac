"""Stages `judge` and `filter`: a calibrated critic scores each video; the videos that pass become a training set."""
