"""What this plugin adds to LoongForge."""

from loongforge_core.component import ComponentSpec
from loongforge_core.registry.hooks import hookimpl


@hookimpl
def loongforge_components() -> list[ComponentSpec]:
    return [
        ComponentSpec(
            kind="projector",
            name="mlp",
            summary="LLaVA's projector: linear, GELU, linear, token by token",
            config="loongforge_projectors.mlp.config:MlpConfig",
            model="loongforge_projectors.mlp.model:MlpProjector",
            weights="loongforge_projectors.mlp.weights:table",
            reference="transformers.models.llava.modeling_llava.LlavaMultiModalProjector",
            paper="arXiv:2310.03744",
        ),
        ComponentSpec(
            kind="projector",
            name="intern_mlp",
            summary="InternVL's projector: blocks of four features side by side, norm, linear, GELU, linear",
            config="loongforge_projectors.intern_mlp.config:InternMlpConfig",
            model="loongforge_projectors.intern_mlp.model:InternMlpProjector",
            weights="loongforge_projectors.intern_mlp.weights:table",
            reference="transformers.models.internvl.modeling_internvl.InternVLMultiModalProjector",
            paper="arXiv:2404.16821",
        ),
        ComponentSpec(
            kind="projector",
            name="patch_merger",
            summary="Qwen's projector: blocks of neighbouring features side by side, then linear, GELU, linear; levels too",
            config="loongforge_projectors.patch_merger.config:PatchMergerConfig",
            model="loongforge_projectors.patch_merger.model:PatchMergerProjector",
            weights="loongforge_projectors.patch_merger.weights:table",
            reference="transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLVisionPatchMerger",
            paper="arXiv:2409.12191",
        ),
        ComponentSpec(
            kind="projector",
            name="frame_stack",
            summary="consecutive frames of a sound side by side, then linear, GELU, linear: fewer tokens",
            config="loongforge_projectors.frame_stack.config:FrameStackConfig",
            model="loongforge_projectors.frame_stack.model:FrameStackProjector",
            paper="arXiv:2402.08846",
        ),
        ComponentSpec(
            kind="projector",
            name="linear",
            summary="Qwen2-Audio's projector: one linear layer, token by token",
            config="loongforge_projectors.linear.config:LinearConfig",
            model="loongforge_projectors.linear.model:LinearProjector",
            weights="loongforge_projectors.linear.weights:table",
            reference="transformers.models.qwen2_audio.modeling_qwen2_audio.Qwen2AudioMultiModalProjector",
            paper="arXiv:2407.10759",
        ),
    ]


@hookimpl
def loongforge_config_paths() -> list[str]:
    return ["loongforge_projectors.configs"]
