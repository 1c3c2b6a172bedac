"""From videos to robot actions: an inverse dynamics model, its decoded joints, and LeRobot data sets."""
