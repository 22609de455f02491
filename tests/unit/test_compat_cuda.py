"""CUDA against driver, compilers, GPUs and kernels: each rule with what passes and what does not."""

from __future__ import annotations

import pytest

from installer.compat.cuda import runtime
from tests.facts import CLOSURE, facts, found, one, swapped, wheel, with_gpu, without


def test_cuda_13_runs_on_branch_580() -> None:
    assert not found(facts(), "cuda-driver")


def test_cuda_13_on_an_older_branch_is_refused() -> None:
    one(
        with_gpu(driver="570.195.03", fabric_manager="570.195.03"), "cuda-driver", "failure",
        "CUDA 13.0", "580 or newer", "570.195.03",
    )  # fmt: skip


def test_a_newer_minor_version_than_the_branch_carries_is_a_warning() -> None:
    given = facts(wheels=swapped(wheel("nvidia-cuda-runtime", "13.2.10")))
    one(given, "cuda-driver", "warning", "13.2", "13.0", "PTX")


def test_cuda_without_a_named_gpu_is_a_warning() -> None:
    one(facts(gpu=None), "cuda-driver", "warning", "target.gpu")


def test_wheels_without_cuda_need_no_gpu() -> None:
    assert not found(facts(gpu=None, wheels=(wheel("torch", "2.13.0+cpu"),)), "cuda-driver")


@pytest.mark.parametrize(
    ("wheels", "expected"),
    [
        ((wheel("nvidia-cuda-runtime-cu12", "12.8.90"),), (12, 8)),
        ((wheel("torch", "2.13.0+cu126"),), (12, 6)),
        ((wheel("torch", "2.13.0"),), ()),
        ((wheel("cupy-cuda12x", "14.0.0"),), (12,)),
        ((wheel("nvidia-nccl-cu13", "2.29.7"), wheel("nvidia-cutlass-dsl-libs-cu12", "4.8.0")), (13,)),
        (CLOSURE, (13, 0)),
    ],
)
def test_the_cuda_version_is_read_from_whatever_tells_it(wheels: tuple[object, ...], expected: tuple[int, ...]) -> None:
    assert runtime(facts(wheels=wheels), "vllm") == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("driver", ["580.178.04", "595.84", "615.71"])
def test_a_supported_branch_is_not_remarked(driver: str) -> None:
    assert not found(with_gpu(driver=driver), "driver-branch")


def test_a_branch_that_is_over_is_a_warning() -> None:
    one(with_gpu(driver="610.57.04"), "driver-branch", "warning", "August 2026", "580")


def test_a_branch_nobody_lists_is_a_warning() -> None:
    one(with_gpu(driver="575.51.03"), "driver-branch", "warning", "575", "580")


def test_compilers_of_the_runtimes_version_pass() -> None:
    assert not found(facts(), "cuda-toolchain")


def test_a_newer_compiler_is_refused_with_the_constraint_that_mends_it() -> None:
    given = facts(wheels=swapped(wheel("nvidia-cuda-nvcc", "13.5.37"), wheel("nvidia-nvvm", "13.5.37")))
    one(given, "cuda-toolchain", "failure", "nvidia-cuda-nvcc<13.1, nvidia-nvvm<13.1")


def test_a_newer_compiler_that_the_driver_can_follow_is_a_warning() -> None:
    given = facts({"models": ["h200-nvl"], "driver": "620.70.06"}, wheels=swapped(wheel("nvidia-cuda-nvcc", "13.5.37")))
    one(given, "cuda-toolchain", "warning", "620")


def test_bindings_of_one_version_pass() -> None:
    assert not found(facts(), "cuda-bindings")


def test_two_wheels_that_both_bring_the_bindings_are_refused() -> None:
    one(facts(wheels=swapped(wheel("cuda-python", "12.6.2.post1"))), "cuda-bindings", "failure", "cuda-python>=13")


@pytest.mark.parametrize("model", ["t4", "a100-80", "l40s", "h200-nvl", "gb200", "b300", "rtx-pro-6000"])
def test_gpus_the_builds_are_made_for_pass(model: str) -> None:
    assert not found(facts({"models": [model], "driver": "580.178.04"}), "gpu-code")


@pytest.mark.parametrize("model", ["v100", "p40"])
def test_a_gpu_without_machine_code_is_refused(model: str) -> None:
    given = facts({"models": [model], "driver": "580.178.04", "kernel_modules": "proprietary"})
    assert {f.severity for f in found(given, "gpu-code")} == {"failure"}
    assert "7.5" in found(given, "gpu-code")[0].what


def test_libraries_that_dropped_the_gpu_are_refused() -> None:
    old = {"models": ["v100"], "driver": "580.178.04", "kernel_modules": "proprietary"}
    one(facts(old), "gpu-cuda", "failure", "13.0", "volta")
    assert not found(facts(old, wheels=(wheel("nvidia-cuda-runtime-cu12", "12.8.90"),)), "gpu-cuda")
    assert not found(facts(), "gpu-cuda")


def test_kernels_of_flashinfers_version_pass() -> None:
    assert not found(facts(), "flashinfer-kernels")


def test_kernels_of_another_version_are_refused() -> None:
    given = facts(wheels=swapped(wheel("flashinfer-cubin", "0.6.13")))
    one(given, "flashinfer-kernels", "failure", "0.6.13", "0.7.0.post1")


def test_kernels_for_one_gpu_only_are_compared_too() -> None:
    given = facts(wheels=swapped(wheel("flashinfer-jit-cache-sm90a", "0.7.1+cu130")))
    one(given, "flashinfer-kernels", "failure", "sm90a", "0.7.1")


def test_kernels_for_another_cuda_are_refused() -> None:
    given = facts(wheels=swapped(wheel("flashinfer-jit-cache", "0.7.0.post1+cu129")))
    one(given, "flashinfer-kernels", "failure", "12.9", "13.0")


def test_missing_kernels_are_a_warning_that_says_what_will_happen() -> None:
    one(without("flashinfer-cubin", "flashinfer-jit-cache"), "flashinfer-kernels", "warning", "first start", "direct")


def test_gpus_before_hopper_do_not_need_the_kernels() -> None:
    bare = without("flashinfer-cubin", "flashinfer-jit-cache").wheels
    assert not found(facts({"models": ["l40s"], "driver": "580.178.04"}, wheels=bare), "flashinfer-kernels")
