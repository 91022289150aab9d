"""Threads and memory are those that the process was given, not those of the machine."""

import os

import pytest

from reion.jobs import resources
from reion.jobs.resources import cores, limited_threads, memory_limit_bytes, threads_to_use

MACHINE_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


@pytest.fixture
def control_groups(tmp_path, monkeypatch):
    """Pretend that this process is in control groups with these files; `line` as /proc/self/cgroup has it."""

    def pretend(line, files):
        proc = tmp_path / "proc"
        proc.write_text(line)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.setattr(resources, "_PROC_CGROUP", proc)
        monkeypatch.setattr(resources, "_CGROUP_ROOT", tmp_path / "cgroup")
        monkeypatch.setattr(resources, "cores", lambda: frozenset(range(8)))

    return pretend


V1 = "4:memory:/job\n3:cpu,cpuacct:/job\n"


@pytest.mark.parametrize(
    ("line", "files", "threads"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "10000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("0::/outer/inner\n", {"outer/cpu.max": "300000 100000\n", "outer/inner/cpu.max": "max 100000\n"}, 3),
        ("0::/on/the/host\n", {"cpu.max": "400000 100000\n"}, 4),
        (V1, {"cpu/job/cpu.cfs_quota_us": "300000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 3),
        (V1, {"cpu/job/cpu.cfs_quota_us": "-1\n", "cpu/job/cpu.cfs_period_us": "100000\n"}, 8),
        ("0::/\n", {}, 8),
        ("nonsense", {"cpu.max": "nonsense\n"}, 8),
    ],
)
def test_threads_are_the_least_of_cores_and_quota(control_groups, line, files, threads):
    control_groups(line, files)
    assert threads_to_use() == threads
    with limited_threads(1):
        assert threads_to_use() == 1


@pytest.mark.parametrize(
    ("line", "files", "limit"),
    [
        ("0::/\n", {"memory.max": "1073741824\n"}, 1 << 30),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE_BYTES),
        ("0::/a/b\n", {"a/memory.max": "536870912\n", "a/b/memory.max": "1073741824\n"}, 1 << 29),
        (V1, {"memory/job/memory.limit_in_bytes": "1073741824\n"}, 1 << 30),
        (V1, {"memory/job/memory.limit_in_bytes": "9223372036854771712\n"}, MACHINE_BYTES),
        ("", {}, MACHINE_BYTES),
    ],
)
def test_memory_is_the_least_of_the_machine_and_its_limits(control_groups, line, files, limit):
    control_groups(line, files)
    assert memory_limit_bytes() == limit


def test_cores_are_those_of_the_process():
    if hasattr(os, "sched_getaffinity"):
        assert cores() == os.sched_getaffinity(0)
