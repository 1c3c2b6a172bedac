"""Stage `generate`: from held-out photos and instructions to videos, by the base or the post-trained world model."""
