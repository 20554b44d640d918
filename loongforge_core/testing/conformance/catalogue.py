"""Every check of the judge: its name, what it asks of a component, what a finding means for users, and how to mend it.

Strings only, as a component's specification: what runs a check is imported when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loongforge_core.component import Kind
from loongforge_core.errors import InputError, did_you_mean

__all__ = ["CHECKS", "Check", "check_named"]

HERE = "loongforge_core.testing.conformance"

ALL: tuple[Kind, ...] = ("encoder", "projector", "backbone", "recipe")
MODULES: tuple[Kind, ...] = ("encoder", "projector", "backbone")
IN_FRONT: tuple[Kind, ...] = ("encoder", "projector")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One promise that the rest of the system relies on."""

    name: str
    kinds: tuple[Kind, ...]
    """Whom it is asked of."""
    asks: str
    """The promise, in a sentence."""
    means: str
    """What users would see where it is broken."""
    mend: str
    """How an author keeps it."""
    run: str
    """`package.module:function`; the function takes a subject and yields a sentence for each thing that is wrong."""


CHECKS: tuple[Check, ...] = (
    # ---- the announcement
    Check(
        name="specification",
        kinds=ALL,
        asks="Every string of the ComponentSpec leads to what it should, it says what `loongforge list` shows, and the component fits in.",
        means="`loongforge list` shows the component, and every command that selects it fails.",
        mend="Correct the `package.module:attribute` strings of the ComponentSpec in plugin.py; each part subclasses its base class.",
        run=f"{HERE}.announcement:specification",
    ),
    Check(
        name="light_import",
        kinds=ALL,
        asks="The plugin's module, the config and the processor import neither torch nor Megatron.",
        means="`loongforge list` and `validate` take seconds instead of answering at once, and so does the start of every data worker.",
        mend="Import torch in model.py only, and nothing of it in the package's __init__.py; what config and model share is plain.",
        run=f"{HERE}.announcement:light_import",
    ),
    Check(
        name="schema",
        kinds=ALL,
        asks="The config is strict and frozen, has a JSON schema, survives being written to YAML and read again, and takes no slot's key.",
        means="A mistyped key is silently ignored, editors cannot complete the YAML, or a resumed run is built from another config.",
        mend="Subclass the config base without another `model_config`, give each field a type that YAML can express, and a docstring.",
        run=f"{HERE}.announcement:schema",
    ),
    Check(
        name="initial_values",
        kinds=MODULES,
        asks="Every parameter and stored buffer has a distribution, is described for checkpoints, and starts with finite values.",
        means="Training starts from uninitialised memory or stops at once, or a tensor is missing in every checkpoint.",
        mend="Return a pattern for every name from `initial_values`; register what is not to be stored with `persistent=False`.",
        run=f"{HERE}.values:initial_values",
    ),
    # ---- items
    Check(
        name="processor",
        kinds=("encoder",),
        asks="The processor makes the same numpy arrays of a file every time, under any name, and refuses damaged files by DataError.",
        means="Data workers die with a traceback on one bad file among a million, or a resumed run sees other items.",
        mend="Return numpy arrays that depend on the content alone; raise DataError naming the path for what is missing or damaged.",
        run=f"{HERE}.opening:processor",
    ),
    Check(
        name="token_counts",
        kinds=IN_FRONT,
        asks="For items of every size, odd ones too, as many features come out as the config's `token_grid` says, in those grids.",
        means="Places for items are counted before the model runs: training stops, or an item's embeddings stand where another's belong.",
        mend="Make `token_grid` follow the module's own arithmetic, rounding included, and return the same grids in `Features`.",
        run=f"{HERE}.items:token_counts",
    ),
    Check(
        name="order",
        kinds=IN_FRONT,
        asks="Items in another order give the same features, in that order.",
        means="What the language model reads of an image depends on where in the batch the image was, and is another image's perhaps.",
        mend="Split by the items' own sizes, one after another; take positions within an item, never its number in the batch.",
        run=f"{HERE}.items:order",
    ),
    Check(
        name="independence",
        kinds=IN_FRONT,
        asks="An item gives the same features alone as beside others of other sizes.",
        means="Features depend on what else is in the micro-batch: evaluation differs from training, and layouts from each other.",
        mend="Mask what pads items to a common length before every sum, mean, norm, convolution and attention; no batch statistics.",
        run=f"{HERE}.items:independence",
    ),
    Check(
        name="leak",
        kinds=MODULES,
        asks="Another content of one item, or of one sample of a language model, changes nothing in the features or logits of the others.",
        means="Samples see each other: a model learns to cheat, and answers depend on who else is asking.",
        mend="Attend within an item only (cumulative lengths, or a mask), and share nothing that is computed from values among items.",
        run=f"{HERE}.items:leak",
    ),
    Check(
        name="levels",
        kinds=("projector", "backbone"),
        asks="Each level is projected by itself, or added where its tokens are, and reaches the output.",
        means="DeepStack encoders train without their early layers, or with them in the wrong places.",
        mend="Project each of `features.levels` like the features, rows in the same order; a backbone adds level i behind its layer i.",
        run=f"{HERE}.levels:levels",
    ),
    Check(
        name="inputs_unchanged",
        kinds=MODULES,
        asks="What the component is given has the same values afterwards.",
        means="Recomputation and a second pass over the same batch see other inputs than the first pass.",
        mend="No in-place operation (`x += 1`, `x.mul_(2)`, `x[i] = ...`) on an input or on a view of it.",
        run=f"{HERE}.values:inputs_unchanged",
    ),
    # ---- a language model's own
    Check(
        name="causality",
        kinds=("backbone",),
        asks="The logits of a token depend on no token behind it.",
        means="The loss falls to nothing in training, and generated text is nonsense.",
        mend="A causal mask in every attention layer; nothing is summed or normalised along the sequence.",
        run=f"{HERE}.sequences:causality",
    ),
    Check(
        name="loss",
        kinds=("backbone",),
        asks="The loss of a token is the cross entropy of its own logits with its label, and rows that pad the vocabulary take no part.",
        means="A model trains on another objective than it is evaluated by, or its loss depends on the tensor-parallel size.",
        mend="Return float32 losses `[b, s]` of unshifted labels, and mask logits from `config.vocab_size` on (`layers.loss`).",
        run=f"{HERE}.sequences:loss",
    ),
    # ---- in a composition
    Check(
        name="batch_invariance",
        kinds=MODULES,
        asks="Samples train the same one by one as in one micro-batch, whatever pads it: the loss and every gradient.",
        means="The micro-batch size changes what is learned.",
        mend="No mean over samples, items or padding inside the model: the loss is a sum over target tokens, divided outside.",
        run=f"{HERE}.compositions:batch_invariance",
    ),
    Check(
        name="packing_invariance",
        kinds=MODULES,
        asks="Samples train the same packed one after another into one row as in rows of their own.",
        means="`data.packing` changes what is learned: samples see each other across their borders.",
        mend="A backbone hands `packed` to its attention and takes positions from `position_ids`, never from the place in the row.",
        run=f"{HERE}.compositions:packing_invariance",
    ),
    Check(
        name="gradients",
        kinds=MODULES,
        asks="Every parameter that trains receives a finite gradient, and what does not train is listed as carried.",
        means="A part of the component never learns, and nothing says so.",
        mend="Use the parameter in `forward`, or take it out; switch `requires_grad` off for what is carried, and list it in the table.",
        run=f"{HERE}.values:gradients",
    ),
    Check(
        name="derivatives",
        kinds=MODULES,
        asks="The gradient of a parameter is the derivative of the output by it.",
        means="Training goes in another direction than downhill: a part of the gradient is lost on the way, or is wrong.",
        mend="No `detach`, `no_grad` or `.data` on the way from a parameter to the output; check your own autograd functions.",
        run=f"{HERE}.values:derivatives",
    ),
    Check(
        name="absent_modality",
        kinds=IN_FRONT,
        asks="A batch without any item trains like the language model alone, with gradients of zero in front of it.",
        means="Runs hang at the first micro-batch without an image, or zero gradients dilute the others.",
        mend="Nothing in the component may depend on being run in every step: no counters, no running statistics.",
        run=f"{HERE}.compositions:absent_modality",
    ),
    # ---- how it runs
    Check(
        name="dtype",
        kinds=MODULES,
        asks="In bfloat16 it takes the processor's dtypes, gives bfloat16 features with finite gradients, close to those of float32.",
        means="`train.precision: bf16`, which every run on a GPU uses, stops with a dtype error, doubles the memory, or is wrong.",
        mend="Cast inputs to a parameter's dtype; name no dtype but `context.dtype`; keep tables of angles in float32 and cast the result.",
        run=f"{HERE}.running:dtype",
    ),
    Check(
        name="recomputation",
        kinds=MODULES,
        asks="With `train.recompute` set to `selective` or `full`, outputs and gradients are those without it.",
        means="A run that saves memory learns something else.",
        mend="What runs twice must give the same twice: no counters, no random numbers outside Megatron's random states.",
        run=f"{HERE}.running:recomputation",
    ),
    Check(
        name="determinism",
        kinds=MODULES,
        asks="The same input gives the same output, bit for bit, when evaluated twice, and when trained twice from one seed.",
        means="Evaluation and generation give another answer every time, and a resumed run is another run.",
        mend="Dropout only `if self.training` (`F.dropout(x, p, self.training)`), and no random numbers but torch's own generators.",
        run=f"{HERE}.running:determinism",
    ),
    Check(
        name="state",
        kinds=MODULES,
        asks="All that decides the output is in parameters and buffers; building and running leave no trace in the module or in torch.",
        means="A model moved to a GPU or loaded from a checkpoint computes something else, or one component changes another's numbers.",
        mend="`register_buffer` for every tensor; no caches or counters on `self`, methods or the module's file; set no defaults of torch.",
        run=f"{HERE}.state:state",
    ),
    Check(
        name="global_state",
        kinds=MODULES,
        asks="It is built, run and differentiated without asking Megatron's global parallel state.",
        means="Core has to lend it a state at every pass: this costs speed, and a language model's groups may be taken for its own.",
        mend="Hand `context.groups` (`tp_group=context.groups.tp`, `pg_collection=context.groups`) to Megatron's layers.",
        run=f"{HERE}.state:global_state",
    ),
    # ---- layouts
    Check(
        name="layout_data",
        kinds=MODULES,
        asks="Two data-parallel ranks, one of which has no item at times, compute what one process computes.",
        means="Runs on several GPUs hang, or learn something else than on one.",
        mend="No collective calls in the component; describe every tensor (`sharded_state_dict`) as it lies.",
        run=f"{HERE}.layouts:layout_data",
    ),
    Check(
        name="layout_replicate",
        kinds=IN_FRONT,
        asks="In front of a language model on two tensor ranks, each of which holds all of it, it computes what one process computes.",
        means="With `parallel.tensor_model_parallel_size` above 1 other numbers are learned, or copies drift apart.",
        mend="Ask `context.groups` for sizes and ranks, never the language model's; let no random number depend on the rank.",
        run=f"{HERE}.layouts:layout_replicate",
    ),
    Check(
        name="layout_tensor",
        kinds=MODULES,
        asks="Split over two tensor ranks, where its config says that it can be, it computes what one process computes.",
        means="`layout: tensor`, or a tensor-parallel language model, learns something else, or stores parts of a tensor as the whole.",
        mend="Use Megatron's parallel layers with `context.groups.tp`, or return a reason from `tensor_parallel_conflicts`.",
        run=f"{HERE}.layouts:layout_tensor",
    ),
    Check(
        name="layout_pipeline",
        kinds=MODULES,
        asks="With two pipeline stages it computes what one process computes.",
        means="Models that are too large for one GPU learn something else.",
        mend="In front of the first stage nothing is cut; a backbone builds the layers that `context.stage` names, and passes levels on.",
        run=f"{HERE}.layouts:layout_pipeline",
    ),
    # ---- what is stored
    Check(
        name="checkpoint",
        kinds=MODULES,
        asks="A saved and loaded model has the same tensors, and its next step is the same, bit for bit.",
        means="A resumed run is another run.",
        mend="Keep what changes in training in parameters and stored buffers, and describe them (`sharded_state_dict`).",
        run=f"{HERE}.stored:checkpoint",
    ),
    Check(
        name="hf_round_trip",
        kinds=MODULES,
        asks="Weights written as a Hugging Face folder and read again are the same, and a folder of the reference comes out as it went in.",
        means="Published weights are lost or changed on the way in or out.",
        mend="Give every tensor a rule whose `join` and `split` are inverse, and every key of config.json a `Key` or a reason.",
        run=f"{HERE}.stored:hf_round_trip",
    ),
    Check(
        name="hf_parity",
        kinds=MODULES,
        asks="With the weights of the reference that the specification names, it computes what the reference computes.",
        means="Published weights give other features or logits here: training starts from a broken model.",
        mend="Compare layer by layer with the reference: two tensors of one shape may be swapped in the table, or a norm misplaced.",
        run=f"{HERE}.references:hf_parity",
    ),
    # ---- recipes
    Check(
        name="markup",
        kinds=("recipe",),
        asks="The recipe writes items of every modality that it lists, and no other, with a placeholder for each.",
        means="Data of a listed modality cannot be written into a prompt.",
        mend="Return an `ItemMarkup` with a placeholder from `markup`, and raise KeyError for a modality that you do not know.",
        run=f"{HERE}.recipes:markup",
    ),
    Check(
        name="positions",
        kinds=("recipe",),
        asks="An item's runs have as many tokens as its grid, and every token has an integer position on each of the recipe's axes.",
        means="Data workers stop with an error, or tokens of one sample share positions with those of another.",
        mend="Let `runs` share the grid out completely, and return int64 `[length]`, or `[3, length]`, from `position_ids`.",
        run=f"{HERE}.recipes:positions",
    ),
)


def check_named(name: str, checks: Sequence[Check] = CHECKS) -> Check:
    """Raises InputError with the nearest name where there is none of this one."""
    for check in checks:
        if check.name == name:
            return check
    raise InputError(f"no check is called {name!r}{did_you_mean(name, [check.name for check in checks])}")
