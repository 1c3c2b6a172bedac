"""Build the light GR1 robot and the small textures that ship in `assets/`, from the robosuite 1.5.2 wheel.

    pip install --no-deps robosuite==1.5.2 fast-simplification
    python -m simulator.build_robot

robosuite (MIT) is used as a box of assets only, and only here: once `assets/robot` and `assets/textures` exist nothing
else needs it. The robot is GR1T2 from the waist up with Fourier hands: legs, head and torso shells are dropped because
the head camera never sees them, meshes are decimated about twentyfold, every joint gets a position actuator and each
hand a grasp frame (x along the fingers, z out of the palm).
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import mujoco
import numpy as np
from PIL import Image

from cookbook.errors import UserError, report_user_errors

ASSETS = Path(__file__).resolve().parents[1] / "assets"
TEXTURES = ("light-wood", "light-gray-floor-tile", "light-gray-plaster")
UNSEEN = ("torso", "head", "base", "waist", "thigh", "shank", "foot")
STL = np.dtype([("normal", "<3f4"), ("corners", "<9f4"), ("attribute", "<u2")])


def read_stl(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) in metres and faces (F, 3) of a binary STL, with equal corners merged."""
    data = path.read_bytes()
    count = int(np.frombuffer(data, "<u4", 1, 80)[0])
    corners = np.frombuffer(data, STL, count, 84)["corners"].reshape(-1, 3)
    micrometres = np.round(corners * 1e6).astype(np.int64)
    _, first, index = np.unique(micrometres, axis=0, return_index=True, return_inverse=True)
    faces = index.reshape(-1, 3)
    triangles = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    return corners[first], faces[triangles]


def write_stl(path: Path, vertices: np.ndarray, faces: np.ndarray) -> None:
    corners = vertices[faces].astype("<f4")
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    rows = np.zeros(len(faces), STL)
    rows["normal"] = normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12)
    rows["corners"] = corners.reshape(-1, 9)
    path.write_bytes(b"\0" * 80 + np.array([len(faces)], "<u4").tobytes() + rows.tobytes())


def decimate_meshes(source: Path, out: Path) -> tuple[int, int]:
    """Write every visible mesh with few faces; returns the number of faces before and after."""
    import fast_simplification

    out.mkdir(parents=True, exist_ok=True)
    before = after = 0
    hands = sorted((source / "grippers/meshes/fourier_hands").glob("*.STL"))
    for path in sorted((source / "robots/gr1/meshes").glob("*.STL")) + hands:
        if path.name.startswith(UNSEEN):
            continue
        if path in hands:
            budget = 900 if "hand_base" in path.name else 300
        else:
            budget = 1100 if "hand_yaw" in path.name else 700
        vertices, faces = read_stl(path)
        before += len(faces)
        if len(faces) > budget:
            vertices, faces = fast_simplification.simplify(
                vertices.astype(np.float32), faces.astype(np.int32), target_count=budget, agg=3
            )
        after += len(faces)
        write_stl(out / path.name, vertices, faces)
    return before, after


def drop_unused(spec: mujoco.MjSpec) -> None:
    """Delete legs, floor, free joint and everything of robosuite's that our own control replaces."""
    spec.delete(spec.body("lower_body"))
    floor = [geom for geom in spec.geoms if geom.name == "floor"]
    free = [joint for joint in spec.joints if joint.type == mujoco.mjtJoint.mjJNT_FREE]
    unused = (spec.keys, spec.actuators, spec.sensors, spec.excludes, spec.cameras, spec.textures, spec.sites)
    for group in (*unused, floor, free):
        for element in list(group):
            spec.delete(element)


def dress_geoms(spec: mujoco.MjSpec) -> set[str]:
    """Hand meshes collide, arm meshes are only visible, the rest goes; returns the names of the meshes still used."""
    paint = {"LightGrey": "robot_arm", "Purple": "robot_arm", "Black": "robot_dark"}
    used = set()
    for geom in list(spec.geoms):
        hand, visible = geom.name.startswith(("hr_", "hl_")), geom.contype == 0 and geom.conaffinity == 0
        if (not hand and not visible) or geom.meshname.startswith(UNSEEN):
            spec.delete(geom)
            continue
        if visible:
            geom.group, geom.mass, geom.density = 1, 0, 0
            geom.material = paint.get(geom.material, "robot_hand")
        else:
            # robosuite's fingers weigh half a kilogram each: far too heavy to be moved by a force-limited finger
            geom.contype, geom.conaffinity, geom.group, geom.mass = 2, 1, 3, 0.02
            geom.friction[:], geom.condim, geom.solref[:] = [1.2, 0.02, 0.001], 4, [0.008, 1]
            geom.material, geom.meshname = "", geom.meshname.replace("_col", "_vis")
        used.add(geom.meshname)
    for material in list(spec.materials):
        spec.delete(material)
    for name, rgb in {"robot_arm": 0.62, "robot_dark": 0.07, "robot_hand": 0.10}.items():
        material = spec.add_material(name=name, rgba=[rgb, rgb, rgb * 1.05, 1], specular=0.15, shininess=0.3)
        material.roughness, material.metallic = 0.45, 0.1
    return used


def add_control(spec: mujoco.MjSpec) -> None:
    """A grasp frame per hand, a position actuator per joint, and no gravity on the robot."""
    for side in ("right", "left"):
        fingers, palm = np.array([0.0, 0, -1]), np.array([-1.0, 0, 0])
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, np.stack([fingers, np.cross(palm, fingers), palm], 1).flatten())
        spec.body(f"{side}_eef").add_site(name=f"grasp_{side}", pos=[-0.048, 0, -0.105], quat=quaternion, group=4)
    for joint in spec.joints:
        finger = joint.name.startswith(("hr_", "hl_"))
        joint.armature, joint.damping[0] = (0.0005, 0.02) if finger else (0.02, 2.0)
        actuator = spec.add_actuator(name=f"a_{joint.name}", target=joint.name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=0.8 if finger else 900 if "waist" in joint.name else 500, dampratio=1.0)
        actuator.ctrllimited = False
        if finger:
            actuator.forcerange = [-0.35, 0.35]
    for body in spec.bodies:
        body.gravcomp = 1
    spec.body("base").pos = [0, 0, 0.95]


def build_robot(source: Path, out: Path) -> None:
    before, after = decimate_meshes(source, out / "meshes")
    spec = mujoco.MjSpec.from_file(str(source / "robots/gr1/robot.xml"))
    for side in ("right", "left"):
        hand = mujoco.MjSpec.from_file(str(source / f"grippers/fourier_{side}_hand.xml"))
        spec.attach(hand, frame=spec.body(f"{side}_eef").add_frame(), prefix=f"h{side[0]}_")
    drop_unused(spec)
    used = dress_geoms(spec)
    for mesh in list(spec.meshes):
        if mesh.name not in used:
            spec.delete(mesh)
        else:
            mesh.file, mesh.maxhullvert = str((out / "meshes" / Path(mesh.file).name).resolve()), 24
            mesh.smoothnormal = True
    spec.modelname, spec.meshdir = "gr1_upper", ""
    add_control(spec)
    model = spec.compile()
    (out / "gr1.xml").write_text(spec.to_xml().replace(f"{out.resolve()}/", ""))
    kept = {Path(mesh.file).name for mesh in spec.meshes}
    for path in (out / "meshes").glob("*.STL"):
        if path.name not in kept:
            path.unlink()
    print(f"robot: {before} -> {after} faces, {model.nu} joints, {model.nmeshface} faces compiled")


def build_textures(source: Path, out: Path, size: int = 384) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in TEXTURES:
        image = Image.open(source / f"textures/{name}.png").convert("RGB")
        small = image.resize((size, size), Image.Resampling.LANCZOS)
        small.save(out / f"{name}.jpg", quality=85, optimize=True)


def main() -> None:
    package = importlib.util.find_spec("robosuite")
    if package is None or package.origin is None:
        raise UserError("robosuite is not installed: pip install --no-deps robosuite==1.5.2 fast-simplification")
    root = Path(package.origin).parent
    source = root / "models/assets"
    build_robot(source, ASSETS / "robot")
    build_textures(source, ASSETS / "textures")
    licence = next(root.parent.glob("robosuite-*.dist-info/**/LICENSE*"))
    for folder in ("robot", "textures"):
        shutil.copy(licence, ASSETS / folder / "LICENSE")
        size = sum(path.stat().st_size for path in (ASSETS / folder).rglob("*") if path.is_file())
        print(f"assets/{folder}: {size / 1e6:.2f} MB, derived from robosuite 1.5.2 (MIT)")


if __name__ == "__main__":
    with report_user_errors():
        main()
