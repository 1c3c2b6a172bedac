"""How the robot's joints and hands go together: joint angles to hand poses and back, and smooth ways between poses.

Positions are metres in the world frame, rotations (3, 3) matrices of the grasp frame (x along the fingers, z out of the
palm), `grip` is 0 for an open, 1 for a closed hand.
"""

from __future__ import annotations

import mujoco
import numpy as np

ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow_pitch", "wrist_yaw", "wrist_roll", "wrist_pitch")
REST = {"right": [-0.15, -0.22, 0.15, -1.5, 0, 0, 0], "left": [-0.15, 0.22, -0.15, -1.5, 0, 0, 0]}
LEAN = 0.20  # a fixed lean of the waist: without it the arm is at full stretch over the table, and inaccurate
IDLE_GRIP = 0.12


class Robot:
    """Joint bookkeeping and kinematics of one model, on its own MjData. `q` is (42,): all robot joints in radians."""

    def __init__(self, model: mujoco.MjModel) -> None:
        self.model, self.data = model, mujoco.MjData(model)
        joints = [j for j in range(model.njnt) if model.jnt_type[j] != mujoco.mjtJoint.mjJNT_FREE]
        self.names = [model.joint(j).name for j in joints]
        self.qpos, self.qvel = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
        self.actuators = np.array([model.actuator(f"a_{name}").id for name in self.names])
        self.arms = {hand: [self.names.index(f"{hand[0]}_{part}") for part in ARM] for hand in REST}
        prefix = {hand: f"h{hand[0]}_" for hand in REST}
        self.fingers = {hand: [k for k, n in enumerate(self.names) if n.startswith(prefix[hand])] for hand in REST}
        self.sites = {hand: model.site(f"grasp_{hand}").id for hand in REST}
        self.limits = model.jnt_range[joints]
        self.waist = self.names.index("torso_waist_yaw")

    def rest(self) -> np.ndarray:
        q = np.zeros(len(self.names))
        q[self.names.index("torso_waist_pitch")] = LEAN
        for hand, angles in REST.items():
            q[self.arms[hand]] = angles
            self.close_hand(q, hand, IDLE_GRIP)
        return q

    def close_hand(self, q: np.ndarray, hand: str, grip: float) -> None:
        """Set the finger joints of one hand in place."""
        for k in self.fingers[hand]:
            name = self.names[k]
            if "thumb_proximal_yaw" in name:
                q[k] = 1.30
            elif "thumb" in name:
                q[k] = (0.05 if "proximal" in name else 0.10) + 0.75 * grip
            else:
                q[k] = 0.18 + 1.05 * grip if "proximal" in name else 0.25 + grip

    def grip(self, q: np.ndarray, hand: str) -> float:
        """The grip that joint targets command for the four fingers (inverse of close_hand)."""
        four = [k for k in self.fingers[hand] if "thumb" not in self.names[k]]
        return float((q[four].mean() - 0.215) / 1.025)

    def hand_pose(self, q: np.ndarray, hand: str) -> tuple[np.ndarray, np.ndarray]:
        self.data.qpos[self.qpos] = q
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.site_xpos[self.sites[hand]].copy(), self.data.site_xmat[self.sites[hand]].reshape(3, 3).copy()

    def solve(
        self, q: np.ndarray, hand: str, position: np.ndarray, rotation: np.ndarray, steps: int = 40, weight: float = 0.3
    ) -> tuple[np.ndarray, float]:
        """Damped least squares IK from `q`, pulled towards REST in the arm's null space; returns q and error (m)."""
        model, data, arm = self.model, self.data, self.arms[hand]
        qpos, dofs, site = self.qpos[arm], self.qvel[arm], self.sites[hand]
        move, spin = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        data.qpos[self.qpos] = q
        for _ in range(steps):
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            now = data.site_xmat[site].reshape(3, 3)
            off = position - data.site_xpos[site]
            twist = 0.5 * np.cross(now, rotation, axis=0).sum(1)
            if np.linalg.norm(off) < 5e-4 and np.linalg.norm(twist) < 5e-3:
                break
            mujoco.mj_jacSite(model, data, move, spin, site)
            jacobian = np.vstack([move[:, dofs], weight * spin[:, dofs]])
            error = np.concatenate([np.clip(off, -0.05, 0.05), weight * np.clip(twist, -0.4, 0.4)])
            inverse = jacobian.T @ np.linalg.inv(jacobian @ jacobian.T + 1e-4 * np.eye(6))
            relax = 0.05 * (np.array(REST[hand]) - data.qpos[qpos])
            step = inverse @ error + relax - inverse @ (jacobian @ relax)
            low, high = self.limits[arm].T
            data.qpos[qpos] = np.clip(data.qpos[qpos] + np.clip(step, -0.25, 0.25), low + 0.02, high - 0.02)
        solved = q.copy()
        solved[arm] = data.qpos[qpos]
        mujoco.mj_kinematics(model, data)
        return solved, float(np.linalg.norm(position - data.site_xpos[site]))


def orient(hand: str, roll: float, pitch: float, yaw: float) -> np.ndarray:
    """Grasp frame. roll: 0 palm inwards, pi/2 palm down; pitch: fingers below horizontal; yaw: inwards (radians)."""
    inward = 1 if hand == "right" else -1
    fingers = np.array([np.cos(pitch) * np.cos(yaw), inward * np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])
    side = np.array([-np.sin(yaw), inward * np.cos(yaw), 0])
    down = np.cross(fingers, side)
    down = -down if down[2] > 0 else down
    palm = np.cos(roll) * side + np.sin(roll) * down
    return np.stack([fingers, np.cross(palm, fingers), palm], 1)


def min_jerk(share: np.ndarray | float) -> np.ndarray | float:
    """0 to 1 with zero velocity and acceleration at both ends."""
    share = np.clip(share, 0, 1)
    return share**3 * (10 - 15 * share + 6 * share**2)


def between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """Rotation a `share` of the way from the first to the second."""
    ends = np.zeros((2, 4))
    mujoco.mju_mat2Quat(ends[0], first.flatten())
    mujoco.mju_mat2Quat(ends[1], second.flatten())
    if ends[0] @ ends[1] < 0:
        ends[1] *= -1
    angle = np.arccos(np.clip(ends[0] @ ends[1], -1, 1))
    weights = [1 - share, share] if angle < 1e-6 else np.sin([(1 - share) * angle, share * angle]) / np.sin(angle)
    result = np.zeros(9)
    mujoco.mju_quat2Mat(result, weights[0] * ends[0] + weights[1] * ends[1])
    return result.reshape(3, 3)
