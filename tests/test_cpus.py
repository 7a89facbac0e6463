"""How many CPUs a process may use: here, control groups are folders and files as Linux shows them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from fastmlp import cpus

TREES: dict[str, tuple[str, dict[str, str], float]] = {
    # What /proc/self/cgroup says, the files, and the CPUs that the limit is worth.
    "no limit": ("0::/\n", {"cgroup.procs": "1\n"}, math.inf),
    "a container": ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
    "a container without a limit": ("0::/\n", {"cpu.max": "max 100000\n"}, math.inf),
    "a service": ("0::/system.slice/web.service\n", {"system.slice/web.service/cpu.max": "300000 100000\n"}, 3.0),
    "a service in a slice": (
        "0::/a.slice/b.service\n",
        {"a.slice/b.service/cpu.max": "400000 100000\n", "a.slice/cpu.max": "50000 200000\n"},
        0.25,
    ),
    "version 1": (
        "5:cpuset:/other\n4:cpu,cpuacct:/\n",
        {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n", "cpuset/cpu.max": "1 1\n"},
        2.0,
    ),
    "version 1, without a limit": (
        "1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf,
    ),
    "version 1, by its name outside the container": (
        "1:cpu:/docker/7f\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 1.0,
    ),
    "both versions": (
        "1:cpu:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "100000\n", "cpu/a/cpu.cfs_period_us": "50000\n"}, 2.0,
    ),
    "outside the namespace": ("0::/../b\n", {"cpu.max": "700000 100000\n"}, 7.0),
    "nothing that is known": ("what is this", {"cpu.max": "100000 100000\n"}, math.inf),
    "a limit of nothing": ("0::/\n", {"cpu.max": "100000 0\n"}, math.inf),
    "an unreadable limit": ("0::/\n", {"cpu.max": "some of it\n"}, math.inf),
}  # fmt: skip


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, str]], None]:
    """Make a machine of eight CPUs with these control groups."""

    def make(own: str, files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "sys" / name).write_text(text)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(cpus, "CGROUPS", tmp_path / "sys")
        monkeypatch.setattr(cpus, "OWN_CGROUPS", tmp_path / "own")
        monkeypatch.setattr(cpus, "cpu_quota", cpus.cpu_quota.__wrapped__)
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)

    return make


@pytest.mark.parametrize("case", TREES)
def test_a_limit_of_time_is_one_of_cpus(case: str, linux: Callable[[str, dict[str, str]], None]) -> None:
    own, files, quota = TREES[case]
    linux(own, files)
    assert cpus.cpu_quota() == quota
    assert cpus.available_cpus() == {math.inf: 8, 0.25: 1, 1.5: 2}.get(quota, quota)


def test_without_control_groups_all_cpus_count(
    linux: Callable[[str, dict[str, str]], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linux("0::/", {})
    (tmp_path / "own").unlink()
    assert cpus.available_cpus() == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert cpus.available_cpus() == 5
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cpus.available_cpus() == 1
