"""Robot policies: trained on videos with joints, real or generated, and driven in closed loop in the simulator."""
