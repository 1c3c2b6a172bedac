"""For maintainers: publishing executed notebooks, the offline bundle, exercises written into the notebooks."""
