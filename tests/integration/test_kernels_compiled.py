"""The kernels of GPUs, compiled for some that are not here."""

import pytest

from tests.kernels_compiled import compiled

pytestmark = pytest.mark.needs("triton")

NAMES = {90: "H100", 80: "A100", 89: "L4 and RTX 40", 120: "RTX 50"}
SHARED_KIB = {90: 227, 80: 163, 89: 99, 120: 99}  # of a program, by NVIDIA's table


@pytest.mark.device
@pytest.mark.parametrize("capability", NAMES, ids=NAMES.values())
def test_kernels_compile_for_gpus_and_fit_in_their_registers(
    capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
    kernels = compiled(capability, ["auto", "int8"] if capability == 90 else ["auto"])
    attention = {"write_kernel", "attend_kernel", "join_kernel"}
    between = {"_rms_norm", "_rotate", "_swiglu", "_quick_gelu", "_scatter"}
    assert {kernel.name for kernel in kernels} == attention | between
    # Without asynchronous products, operands are in registers too, and a few numbers are not.
    spilled = 0 if capability == 90 else 128
    for kernel in kernels:
        assert kernel.stack_bytes <= spilled, kernel
        assert kernel.shared_bytes <= 1024 * SHARED_KIB[capability], kernel
        # Two programs of few rows at a time hide each other's loads.
        if kernel.name == "attend_kernel" and " 1 rows" in kernel.case:
            assert 2 * kernel.registers * 4 * 32 <= 65_536, kernel
            assert 2 * kernel.shared_bytes <= 1024 * SHARED_KIB[capability], kernel
