"""What pipeline stages must fulfil: which of them have decoder layers, and whether these can be shared among them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from loongforge_core.config.layout.job import Job, Problem, around, division
from loongforge_core.config.slot_names import FOUNDATION

__all__ = ["layers_over_stages", "stage_of_the_encoders"]

PIPELINE = "parallel.pipeline_model_parallel_size"
ENCODER_STAGES = "parallel.encoder_pipeline_model_parallel_size"
FIRST = "parallel.num_layers_in_first_pipeline_stage"
LAST = "parallel.num_layers_in_last_pipeline_stage"


def stage_of_the_encoders(job: Job) -> Iterator[Problem]:
    parallel, stages = job.run.parallel, job.run.parallel.encoder_pipeline_model_parallel_size
    if stages > 1:
        yield Problem(ENCODER_STAGES, f"got {stages}, but more than one stage of encoders is not there yet", {ENCODER_STAGES: (1, 0)})
    elif stages and not job.has_encoder:
        yield Problem(ENCODER_STAGES, "the model has no encoder that this stage could hold", {ENCODER_STAGES: (0,)})
    elif stages and parallel.pipeline_model_parallel_size == 1:
        yield Problem(
            ENCODER_STAGES,
            "the encoders' stage is one of pipeline_model_parallel_size 1, which leaves 1 - 1 = 0 stages for decoder layers",
            {ENCODER_STAGES: (0,), PIPELINE: (2, 3)},
        )
    if stages and parallel.num_layers_in_first_pipeline_stage is not None:
        yield Problem(
            FIRST, "the first stage is the encoders' (encoder_pipeline_model_parallel_size), without decoder layers; leave this out"
        )


def layers_over_stages(job: Job) -> Iterator[Problem]:
    """Every stage but the encoders' has a decoder layer, and those for which nothing is said share equally unless there is such a stage."""
    parallel, stages = job.run.parallel, job.run.parallel.pipeline_model_parallel_size
    written = {FIRST: parallel.num_layers_in_first_pipeline_stage, LAST: parallel.num_layers_in_last_pipeline_stage}
    given = {key: layers for key, layers in written.items() if layers is not None}
    if stages == 1:
        for key in given:
            yield Problem(key, "shares layers among pipeline stages, and pipeline_model_parallel_size is 1; leave this out")
        return
    if FOUNDATION not in job.filled:
        yield Problem(PIPELINE, f"got {stages}, but the model has no {FOUNDATION} whose layers the stages could hold", {PIPELINE: (1,)})
    encoders = parallel.encoder_pipeline_model_parallel_size
    if job.foundation is None or encoders > 1 or (encoders and (FIRST in given or not job.has_encoder)):
        return
    layers = job.foundation.num_layers
    if reason := why_not_shared(layers, stages, encoders, given):
        key = next(iter(given), PIPELINE)
        ways = {PIPELINE: (size for size in around(stages, 1, layers + encoders) if not why_not_shared(layers, size, encoders, given))}
        uneven = {end: layers_at(end, layers, stages, encoders, given) for end in given or (LAST,)}
        yield Problem(key, reason, {**uneven, **ways} if given else {**ways, **uneven})


def layers_at(end: str, layers: int, stages: int, encoders: int, given: Mapping[str, int]) -> Iterator[int]:
    """How many a stage at one end may have, so that the rest can be shared."""
    likely = given.get(end, max(1, layers // (stages - encoders)))
    return (size for size in around(likely, 1, layers) if not why_not_shared(layers, stages, encoders, {**given, end: size}))


def why_not_shared(layers: int, stages: int, encoders: int, given: Mapping[str, int]) -> str:
    """Empty where the stages for which nothing is said can share the layers that are left: equally, or evenly beside an encoders' stage."""
    others, left = stages - encoders - len(given), layers - sum(given.values())
    said = f"num_layers {layers} of the {FOUNDATION}"
    if given:
        said = f"{' + '.join(map(str, given.values()))} of {said}, given to the stages at the ends, leave {left}"
    if others == 0:
        return f"{said}, and there is no other stage; expected 0" if left else ""
    named = f"{others} other stage{'s' * (others > 1)}" if given else f"{others} stages"
    if left < others:
        return f"{said} for {named}, where each needs one at least: {left} < {others}"
    if left % others and not encoders:
        return f"{said} for {named}, which share equally: {division(left, others)}"
    return ""
