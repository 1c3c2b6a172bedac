"""Robot policies: trained on videos with joints, real or generated, and rolled out in closed loop in the simulator."""
