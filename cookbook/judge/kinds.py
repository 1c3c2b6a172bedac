"""What is done to a sound clip to make a control of each kind: the simulator's twins, then the spoilt copies."""

from __future__ import annotations

FAULTS = {
    "real": "nothing",
    "teleport": "the object jumps to its final place",
    "vanish": "the object disappears",
    "levitate": "the object rises by itself, and the hand never gets it",
    "sink": "let go, the object sinks through what it lies on",
    "premove": "the object slides away before it is touched",
    "duplicate": "a second one of the object stays behind when it is lifted",
    "passthrough": "the hand passes through the object, which stays where it is",
    "float_release": "the object hangs in the air where it was carried",
    "morph": "the object changes its colour",
    "distractor_moves": "another object slides by itself",
    "arm_in_table": "the hand dips through the table on its way",
    "wrong_object": "the hand takes another object than the one named",
    "wrong_place": "the object ends in another place than the one named",
    "wrong_hand": "the other hand does it",
    "not_completed": "the hand stops half-way",
    "frozen": "frame 0 all along: possible, but nothing is done",
    "reversed": "backwards in time",
    "shuffled": "frames in random order",
    "spliced": "the second half of another clip",
    "pasted": "from the middle on, a region of another clip",
    "erased": "from the middle on, a region smoothed away",
    "dropped": "a third of the frames cut out of the middle",
    "sped_up": "three times as fast, then the last frame held",
    "swapped": "the clip as it is, with the prompt of another",
}
