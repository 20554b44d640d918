"""What Megatron-Core is given in place of CUDA: which versions are prepared, what everyone else keeps, and that each row is of some use."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from loongforge_core.parallel.redirections import REDIRECTIONS
from loongforge_core.parallel.repairs import REPAIRS, Replacement


def run_python(code: str, *, first_on_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = [str(first_on_path)] * bool(first_on_path) + sys.path
    code = f"import sys; sys.path[:] = {path!r}\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("version", ["0.16.0", "0.20.0", "0.20.1", "1.0.0"])
def test_untested_versions_are_refused(version: str, tmp_path: Path) -> None:
    folder = tmp_path / "megatron" / "core"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('imported')")
    names = zip(("MAJOR", "MINOR", "PATCH"), version.split("."))
    (folder / "package_info.py").write_text("".join(f"{name} = {n}\n" for name, n in names) + 'PRE_RELEASE = ""\n')
    code = "from loongforge_core.parallel.cpu import prepare_megatron; prepare_megatron()"
    found = run_python(code, first_on_path=tmp_path)
    message = found.stderr.splitlines()[-1]
    assert "VersionError" in message and version in message and str(folder) in message
    assert "pip install 'megatron-core>=0.16.1,<0.20'" in message


def test_preparing_costs_no_torch_and_importing_says_nothing() -> None:
    found = run_python(
        """
        import sys
        from loongforge_core.parallel.cpu import prepare_megatron
        prepare_megatron(); prepare_megatron()
        assert "torch" not in sys.modules
        import megatron.core
        import megatron.core.models.gpt.gpt_layer_specs
        import megatron.core.dist_checkpointing
        import megatron.core.optimizer
        import megatron.core.transformer.multi_latent_attention
        from megatron.core.fusions.fused_bias_swiglu import swiglu
        assert not hasattr(swiglu, "_torchdynamo_orig_callable")
        """
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_modules_imported_earlier_are_brought_up_to_date() -> None:
    found = run_python(
        """
        from megatron.core.fusions.fused_bias_swiglu import swiglu
        from megatron.core import tensor_parallel
        from megatron.core.fusions import fused_bias_swiglu
        from megatron.core.transformer.moe import moe_utils, token_dispatcher
        assert hasattr(swiglu, "_torchdynamo_orig_callable")
        from loongforge_core.parallel.cpu import prepare_megatron
        prepare_megatron()
        assert not hasattr(fused_bias_swiglu.swiglu, "_torchdynamo_orig_callable")
        assert token_dispatcher.maybe_move_tensor_to_cpu is moe_utils.maybe_move_tensor_to_cpu
        assert moe_utils.maybe_move_tensor_to_cpu.__module__ == "loongforge_core.parallel.redirections"
        assert tensor_parallel.random.torch.cuda.current_device() == "cpu"
        """
    )
    assert found.returncode == 0, found.stderr


def test_everyone_else_keeps_the_real_torch() -> None:
    found = run_python(
        """
        import torch
        import torch._dynamo  # changes torch itself
        owners = (torch, torch.cuda, torch.Tensor)
        before = [dict(vars(owner)) for owner in owners]
        from loongforge_core.parallel.launch import single_process
        from megatron.core import tensor_parallel, optimizer, pipeline_parallel
        with single_process():
            pass
        changed = [
            (owner.__name__, name)
            for owner, names in zip(owners, before)
            for name, value in vars(owner).items()
            if names.get(name) is not value and not isinstance(value, type(torch)) and not name.startswith("__")
        ]
        assert sorted(changed) == [("Tensor", "cuda"), ("Tensor", "type")], changed
        tensor = torch.zeros(1)
        assert tensor.type() == "torch.FloatTensor" and tensor.type(torch.int64).dtype == torch.int64
        for forbidden in (tensor.cuda, torch.cuda.current_device, lambda: torch.zeros(1, device="cuda")):
            try:
                forbidden()
            except (AssertionError, RuntimeError):
                continue
            raise SystemExit("torch no longer says that there is no CUDA")
        with torch.device("meta"):
            assert torch.zeros(1).is_meta and torch.nn.Linear(2, 2).weight.is_meta
            assert tensor_parallel.mappings.torch.zeros(1).is_meta
        """
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("row", [r for r in REDIRECTIONS + REPAIRS if r.where.startswith("megatron")], ids=lambda r: r.name)
def test_every_row_for_a_module_names_something_in_it(row: Replacement) -> None:
    """A name that Megatron has no more would be set all the same, and change nothing."""
    assert re.search(rf"\b{row.name}\b", Path(str(importlib.import_module(row.where).__file__)).read_text())
    assert row.reason and row.until
