"""Stage `train`: post-train the world model on captioned clips."""
