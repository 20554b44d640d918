"""For every test: no accelerator, one thread a process, since tests of ranks start several at once, and nothing of a launcher around it."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from collections.abc import Iterable

import pytest

from loongforge_core.parallel.cpu import hide_accelerators, prepare_megatron

# Whatever this machine has: tests marked `gpu` show accelerators to processes of their own.
os.environ.setdefault("HIDDEN_FROM_TESTS", os.environ.get("CUDA_VISIBLE_DEVICES", "nothing was set"))
hide_accelerators()
prepare_megatron()
for name in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID"):
    os.environ.pop(name, None)

# `make test` has two passes, one for each Megatron-Core. What does not depend on it is in the pass of the older one only. In that of the
# newer one only, which is what clusters run, are most layouts; a sample of them is in both, and what Megatron's versions differ in most.
# A pass says how many it leaves out.
OLDER_ONLY = (
    "tests/cli/test_several_processes.py::",
    "tests/fuzz/",
    "tests/hostile/test_compositions.py::",
    "tests/hostile/test_data_lines.py::",
    "tests/hostile/test_tokenizers.py::",
    "tests/parallel/test_forked.py::",
    "tests/parallel/test_launch.py::",
    "tests/parallel/test_one_place.py::",
    "tests/parallel/test_redirections.py::test_everyone_else_keeps_the_real_torch",
    "tests/parallel/test_redirections.py::test_modules_imported_earlier",
    "tests/parallel/test_redirections.py::test_preparing_costs_no_torch",
    "_are_those_of_one[recomputed",  # for which 0.19 compiles C++
    "tests/testing/",
    "tests/train/checkpoint/test_record.py::",
    "tests/train/test_endings.py::test_a_lost_rank",
    "tests/train/test_endings.py::test_a_signal",
    "tests/train/test_endings.py::test_the_same_signal",
    "tests/train/test_skipped_lines.py::",
    "tests/train/test_held_out.py::",
    "tests/train/test_skipped_steps.py::",
    "tests/train/test_versions.py::",
    "tests/weights/test_memory.py::",
    "test_broken_plugins.py::",
    "test_left_out.py::",
    "test_two_stages.py::",
    "examples/",
    "test_compositions.py::",
    "test_digits_data.py::",
    "test_digits_export.py::",
    "test_hf_config.py::",
    "test_hf_encoder.py::",
    "test_mrope_positions.py::",
    "test_original_files.py::",
    "test_tones_data.py::",
    "test_videos.py::",
    "_folders.py::",
    "/test_published_",
    "::test_published_",
    "_processor.py::",
    "::test_token_counts",
    "::test_tokens_are_counted",
    "::test_round_trip",
)
NEWER_ONLY = (
    "tests/matrix/",
    "tests/layouts/",
    "tests/train/test_kill.py::",
    "::test_a_run_killed_again_and_again",
    "::test_every_layout",
    "/test_layouts.py::",
    "_layouts.py::",
)
BOTH = (
    "test_expert_layouts.py::test_ranks_share_experts",
    "test_head_norms.py::test_an_encoder_in_front_of_a_language_model[over all heads-qwen2]",
    "test_interleaved.py::",
    "test_pairs.py::",
)

# The files that take longest, the longest first, so that workers end at about the same time.
FIRST = (
    "tests/layouts/test_pairs.py",
    "tests/cli/test_several_processes.py",
    "tests/packaging/test_wheels.py",
    "tests/train/checkpoint/test_layouts.py",
    "plugins/loongforge_models/tests/test_published_models.py",
    "tests/layouts/test_language_model.py",
    "plugins/loongforge_llm/tests/test_expert_layouts.py",
    "tests/train/test_kill.py",
    "plugins/loongforge_llm/tests/test_qwen3_moe.py",
    "plugins/loongforge_llm/tests/test_deepseek.py",
    "tests/parallel/test_cpu.py",
    "tests/train/test_versions.py",
    "tests/train/test_loop.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--all-layouts",
        nargs="?",
        const="1/1",
        metavar="K/N",
        help="tests/layouts: the whole product of layouts instead of all pairs, or every Nth of it from the Kth",
    )
    parser.addoption(
        "--kills", type=int, default=20, metavar="N", help="tests/train/test_kill.py: how often the run of two processes is killed"
    )
    parser.addoption("--fuzz", type=int, default=40, metavar="N", help="tests/fuzz: this many damaged files of each kind")
    parser.addoption("--whole-matrix", action="store_true", help="tests/matrix: every combination of components instead of a sample")


def pytest_configure() -> None:
    """`make test` says in EXPECT_MEGATRON which version each of its passes is for; without it any version will do."""
    expected, found = os.environ.get("EXPECT_MEGATRON"), megatron_version()
    if expected and found != expected:
        import megatron.core

        raise pytest.UsageError(f"EXPECT_MEGATRON is {expected}, but Megatron-Core {found} is imported, from {megatron.core.__path__[0]}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The slowest files first; in one of the two passes, leaves to the other what one of them is enough for."""
    items.sort(key=lambda item: next((place for place, file in enumerate(FIRST) if item.nodeid.startswith(file)), len(FIRST)))
    if "EXPECT_MEGATRON" not in os.environ:
        return
    left = [item for item in items if is_for_the_other_pass(item.nodeid)]
    items[:] = [item for item in items if item not in left]
    config.hook.pytest_deselected(items=left)


def is_for_the_other_pass(name: str) -> bool:
    def among(parts: Iterable[str]) -> bool:
        return any(part in name for part in parts)

    if megatron_version().startswith("0.16"):
        return among(NEWER_ONLY) and not among(BOTH)
    return among(OLDER_ONLY)


def megatron_version() -> str:
    """0.19 adds the commit of the git checkout that it lies in: 0.19.2+07b6531."""
    import megatron.core

    return megatron.core.__version__.partition("+")[0]
