"""What the agent says about its machine."""

from pathlib import Path

import psutil

from modelshare.agent.hardware import accelerator, capabilities, memory_bytes


def put(root: Path, path: str, text: str = "") -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_this_machine_is_described(tmp_path: Path) -> None:
    machine = capabilities(tmp_path, ["llamacpp"])
    assert machine.engines == ["llamacpp"]
    assert machine.disk_free_bytes
    assert 0 < memory_bytes() <= psutil.virtual_memory().total


def test_a_container_has_what_its_limit_leaves(tmp_path: Path) -> None:
    put(tmp_path, "sys/fs/cgroup/memory.max", "1048576\n")
    assert memory_bytes(tmp_path) == 1 << 20
    put(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert memory_bytes(tmp_path) == psutil.virtual_memory().total


def test_accelerators_are_told_by_the_devices_that_may_be_used(tmp_path: Path) -> None:
    node = "sys/class/kfd/kfd/topology/nodes/{}/properties"
    assert accelerator(tmp_path) == "cpu"
    put(tmp_path, node.format(0), "cpu_cores_count 8\nsimd_count 0\n")
    assert accelerator(tmp_path) == "cpu"
    put(tmp_path, node.format(1), "cpu_cores_count 0\nsimd_count 120\n")
    assert accelerator(tmp_path) == "cpu"
    put(tmp_path, "dev/kfd")
    assert accelerator(tmp_path) == "amd"
    put(tmp_path, "proc/driver/nvidia/gpus/0000:01:00.0/information")
    put(tmp_path, "dev/nvidiactl")
    assert accelerator(tmp_path) == "amd"
    put(tmp_path, "dev/nvidia1")
    assert accelerator(tmp_path) == "nvidia"


def test_intel_needs_its_tool_beside_a_device(tmp_path: Path) -> None:
    put(tmp_path, "dev/dri/renderD128")
    assert accelerator(tmp_path, which=lambda _: None) == "cpu"
    assert accelerator(tmp_path, which=lambda name: f"/usr/bin/{name}") == "intel"
