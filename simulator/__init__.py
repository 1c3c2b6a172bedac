"""The simulator: a GR1 humanoid at a table in MuJoCo that knows the ground truth of every clip it renders.

    python -m simulator make --out DIR --scenes 10 --faults all   labelled clips
    python -m simulator show 3                                    a contact sheet of scene 3 with every fault

It runs from a checkout. Like nano/ and tools/ it is left out of the wheel: these names could collide with others in
site-packages, and the robot and textures in assets/ are in the checkout only.
"""
